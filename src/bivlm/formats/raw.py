"""`raw`: the numbers themselves, in 16 bits each. For what is not worth coding: a few rows of a weight
(rows.py), a small factor (lowrank.py).

    w[i, j] = values[i, j]          float16 or bfloat16

docs/format.md has every byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding.checks import (
    blaming,
    check_choice,
    check_slice,
    check_tensor,
    check_tensors,
    dtype_name,
    known_settings,
    own_copy,
    require,
)

STORED = {"bfloat16": torch.bfloat16, "float16": torch.float16}
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
        if weight.dtype in STORED.values():
            return cls(weight.detach().clone())
        half = weight.detach().half()
        return cls(half if bool(half.isfinite().all()) else weight.detach().bfloat16())

    def check(self) -> None:
        require(
            self.values.dim() == 2 and self.values.numel() > 0,
            f"'values' is {list(self.values.shape)}; needs (out, in), each at least 1",
        )
        dtype = self.values.dtype if self.values.dtype in STORED.values() else torch.float16
        check_tensor("values", self.values, dtype, tuple(self.values.shape))
        _check_values(self.values)

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
    def check_packed(cls, packed: PackedTensor) -> None:
        with blaming("raw"):
            settings: dict[str, Any] = known_settings(packed, "raw", ["stored"])
            check_choice("stored", settings["stored"], list(STORED))
            check_tensors(packed.tensors, {"values": (STORED[settings["stored"]], tuple(packed.shape))})
            _check_values(packed.tensors["values"])

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        cls.check_packed(packed)
        return packed.tensors["values"][index].float()


def raw_nbytes(shape: tuple[int, int]) -> int:
    """The bytes that `encode` writes for a weight of this shape, exactly."""
    return shape[0] * shape[1] * BITS // 8


def _check_values(values: Tensor) -> None:
    require(bool(values.isfinite().all()), "'values' holds NaN or infinity")
