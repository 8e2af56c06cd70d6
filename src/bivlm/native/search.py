"""The search of the trellis by the library (csrc/trellis/search); quantizers/steps/viterbi.py defines it."""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats.encoding.trellis_checks import HELD, STRIP
from bivlm.native.library import Library
from bivlm.native.pointers import pointer


def native_search(
    library: Library, w: Tensor, u: Tensor, window: int, k: int, table: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `search_columns` of quantizers/steps/viterbi.py, with the same arguments; they are not
    changed.

    Raises ValueError for arguments of other dtypes and sizes, and for a block that the library refuses.
    """
    columns, rows = w.shape
    held = -(-rows // HELD) * HELD
    values, after = w.clone(memory_format=torch.contiguous_format), state.clone()
    factor, levels = u.contiguous(), table.contiguous()
    symbols = torch.empty(columns, held, dtype=torch.uint8, device="cpu")
    code = library.trellis_search(
        pointer("w", values, torch.float32, columns * rows),
        rows,
        columns,
        pointer("u", factor, torch.float32, columns * columns),
        window,
        k,
        pointer("table", levels, torch.int8, 1 << window),
        pointer("state", after, torch.int32, -(-rows // STRIP)),
        pointer("symbols", symbols, torch.uint8, columns * held),
        torch.get_num_threads(),
    )
    if code:
        raise ValueError(
            f"the native search refused a block of {list(w.shape)} (error {code}); is the factor's diagonal"
            " positive?"
        )
    return values, symbols, after
