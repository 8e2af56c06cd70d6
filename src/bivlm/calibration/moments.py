"""Sums of products of inputs, Σ left rightᵀ, as second moments and residuals need them.

A second moment is symmetric, so of wide inputs only its upper half is summed, in blocks of rows, with little
more than half of the operations; the rest is filled in at the end. Narrow ones are summed whole, which is as
fast.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bivlm.profile import part
from bivlm.types import Modality

BLOCK = 512  # rows of the sum that are added to at a time
WIDE = 2 * BLOCK  # from more columns than this on, only the upper half is summed


def pieces(columns: int, symmetric: bool) -> list[tuple[slice, slice]]:
    """The rows and columns of each piece of a sum (columns, columns) that is added to by itself: row blocks
    of the upper half of a wide second moment; everything else is one piece.
    """
    if not symmetric or columns <= WIDE:
        return [(slice(0, columns), slice(0, columns))]
    return [(block, slice(block.start, columns)) for block in _blocks(columns)]


def add_products(
    total: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype, mine: Collection[int] | None = None
) -> None:
    """Add Σ left rightᵀ over the rows (t, in) float32 of both to `total` (in, in) float32, in place; with
    `mine` only to these of its `pieces`, by their numbers.

    Where `left` is `right`, a wide `total` gets only its upper half and the blocks on the diagonal;
    `fill_lower_` adds the rest. Inputs of a model in bfloat16 (`dtype`) are multiplied in it, where the
    processor can, and summed in float32: the products are exact, and three times as fast.
    """
    with part("second moments"), _products_in(dtype):
        for number, (rows, columns) in enumerate(pieces(len(total), left is right)):
            if mine is None or number in mine:
                total[rows, columns].addmm_(left[:, rows].T, right[:, columns])


def fill_lower_(total: Tensor) -> None:
    """Make a sum of `add_products` (in, in) with `left` as `right` whole, in place."""
    if len(total) > WIDE:
        for block in _blocks(len(total)):
            total[block.stop :, block] = total[block, block.stop :].T


def sum_of(
    sums: dict[str, dict[Modality, Tensor]], name: str, modality: Modality, columns: int, device: torch.device
) -> Tensor:
    """A sum (in, in) float32, zeros at first: pages that nothing is added to take no memory."""
    own = sums.setdefault(name, {})
    if modality not in own:
        own[modality] = torch.zeros(columns, columns, dtype=torch.float32, device=device)
    return own[modality]


def _blocks(rows: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]


@contextmanager
def _products_in(dtype: torch.dtype) -> Iterator[None]:
    """Within this context float32 products take factors in bfloat16, if this is the model's dtype."""
    before = torch.get_float32_matmul_precision()
    if dtype == torch.bfloat16:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
