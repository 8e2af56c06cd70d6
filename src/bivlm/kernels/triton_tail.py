"""The sparse tail of a weight for Triton's kernels of `levels` and `planes`: its entries in rows."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

NARROW = 1 << 16  # columns that a 16-bit number tells apart
ROWS = 16  # of a program
ENTRIES = 32  # of a row, at a time


class Tail:
    """The entries at `positions` (n,) int64, ascending, row-major in a weight of `shape`, with one of
    `values` (n,) each.

    starts    (out + 1,) int32: where the entries of each row begin
    columns   (n,) int16, to be read without a sign, or int32 for wide weights
    """

    def __init__(self, positions: Tensor, shape: tuple[int, int], values: Tensor) -> None:
        rows, columns = shape
        row = torch.arange(rows + 1, dtype=torch.int64, device=positions.device)
        self.starts = torch.searchsorted(positions, row * columns).to(torch.int32)
        self.wide = columns > NARROW
        self.columns = (positions % columns).to(torch.int32 if self.wide else torch.int16)
        self.values, self.rows = values.contiguous(), rows

    @property
    def added(self) -> tuple[Tensor, ...]:
        """What is held in addition to the packed tensors."""
        coded = self.values.dtype == torch.uint8  # values of their own are a packed tensor
        return (self.starts, self.columns, *((self.values,) if coded else ()))

    def grid(self, tokens: int) -> tuple[int, int]:
        """The programs of a product: tokens, blocks of rows."""
        return tokens, triton.cdiv(self.rows, ROWS)

    def constants(self) -> dict[str, int | bool]:
        """The constants of a kernel that reads the entries."""
        return {"WIDE": self.wide, "BN": ROWS, "BE": ENTRIES}
