"""The search of the trellis by the library (csrc/trellis/search); quantizers/steps/viterbi.py defines it."""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats.trellis import HELD
from bivlm.native.library import Library


def native_search(
    library: Library, w: Tensor, u: Tensor, window: int, k: int, table: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `search_columns` of quantizers/steps/viterbi.py, with the same arguments; they are not
    changed.

    Raises ValueError for a block that the library refuses.
    """
    values, after = w.contiguous().clone(), state.clone()
    factor, levels = u.contiguous(), table.contiguous()
    symbols = torch.empty(len(w), -(-w.shape[1] // HELD) * HELD, dtype=torch.uint8)
    code = library.trellis_search(
        values.data_ptr(),
        w.shape[1],
        len(w),
        factor.data_ptr(),
        window,
        k,
        levels.data_ptr(),
        after.data_ptr(),
        symbols.data_ptr(),
        torch.get_num_threads(),
    )
    if code:
        raise ValueError(
            f"the native search refused a block of {list(w.shape)} (error {code}); is the factor's diagonal"
            " positive?"
        )
    return values, symbols, after
