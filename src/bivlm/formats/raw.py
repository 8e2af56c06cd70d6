"""`raw`: the numbers themselves, in 16 bits each. For what is not worth coding: a few rows of a weight
(rows.py), a small factor (lowrank.py).

    w[i, j] = values[i, j]          float16 or bfloat16

docs/format.md has every byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding.arrays import dtype_name
from bivlm.formats.encoding.checks import check_slice, check_tensor, own_copy, require
from bivlm.formats.encoding.raw_checks import STORED, check_values

BITS = 16


@dataclass(frozen=True, eq=False)
class RawWeight(QuantizedWeight):
    """A weight of (out, in) in `raw`: `values` (out, in) float16 or bfloat16, finite. ValueError for anything
    else.
    """

    format: ClassVar[str] = "raw"

    values: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """The nearest weight to one (out, in), exactly this if it has 16 bits: in float16, which has the more
        digits, if that holds its largest number, otherwise in bfloat16.
        """
        if dtype_name(weight.dtype) in STORED:
            return cls(weight.detach().clone())
        half = weight.detach().half()
        return cls(half if bool(half.isfinite().all()) else weight.detach().bfloat16())

    def check(self) -> None:
        require(
            self.values.dim() == 2 and self.values.numel() > 0,
            f"'values' is {list(self.values.shape)}; needs (out, in), each at least 1",
        )
        found = dtype_name(self.values.dtype)
        check_tensor("values", self.values, found if found in STORED else "float16", tuple(self.values.shape))
        check_values(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    def dequantize(self) -> Tensor:
        return self.values.float()

    def slice_rows(self, start: int, stop: int) -> Self:
        check_slice("rows", start, stop, self.shape[0], 1)
        return replace(self, values=self.values[start:stop])

    def slice_columns(self, start: int, stop: int) -> Self:
        check_slice("columns", start, stop, self.shape[1], 1)
        return replace(self, values=self.values[:, start:stop])

    def encode(self) -> PackedTensor:
        settings = {"stored": dtype_name(self.values.dtype)}
        return PackedTensor(self.format, self.shape, {"values": own_copy(self.values)}, settings)

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. The values are shared with `packed`, not copied."""
        cls.check_packed(packed)
        return cls(packed.tensors["values"])

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        cls.check_packed(packed)
        return packed.tensors["values"][index].float()


def raw_nbytes(shape: tuple[int, int]) -> int:
    """The bytes that `encode` writes for a weight of this shape, exactly."""
    return shape[0] * shape[1] * BITS // 8
