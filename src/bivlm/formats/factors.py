"""`factors`: a product of two sign matrices of `rank` r, with a scale for each row, each of the r products,
and each column.

    W = diag(row_scale · 2^exponent) A diag(middle_scale) B diag(column_scale)
    A ∈ {±1}^(out x r),  B ∈ {±1}^(r x in)

    w[i, j] = ((row_scale[i] * 2^exponent) * Σ_k A[i, k] * middle_scale[k] * B[k, j]) * column_scale[j]

in float32. Bits per weight follow from the rank, about r (out + in) / (out · in), so any number of bits is
possible. docs/format.md has every byte.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import (
    check_density,
    check_integer,
    check_slice,
    check_tensor,
    least_bytes,
    own_copy,
    require,
)
from bivlm.formats.encoding.factor_checks import check_scales
from bivlm.formats.encoding.number_checks import LARGEST_EXPONENT
from bivlm.formats.encoding.numbers import as_signs


@dataclass(frozen=True, eq=False)
class FactorsWeight(QuantizedWeight):
    """A weight of (out, in) in `factors`.

    left_signs    A, (out, r) bool, True is +1; r is at least 1 and may be larger than out and in
    right_signs   B, (r, in) bool, True is +1
    row_scale     (out,) float16
    middle_scale  (r,) float16
    column_scale  (in,) float16
    exponent      -126…126: row scales are relative to 2^exponent

    Scales are finite, of any sign, and small enough that no weight overflows. All tensors are on one device.
    ValueError, naming the field, for anything else.
    """

    format: ClassVar[str] = "factors"

    left_signs: Tensor
    right_signs: Tensor
    row_scale: Tensor
    middle_scale: Tensor
    column_scale: Tensor
    exponent: int

    def check(self) -> None:
        _check_weight(self)

    @property
    def shape(self) -> tuple[int, int]:
        return self.left_signs.shape[0], self.right_signs.shape[1]

    @property
    def rank(self) -> int:
        return self.left_signs.shape[1]

    def dequantize(self) -> Tensor:
        left = as_signs(self.left_signs).mul_(self.middle_scale.float())
        rows = self.row_scale.float() * 2.0**self.exponent
        return (left @ as_signs(self.right_signs)).mul_(rows[:, None]).mul_(self.column_scale.float())

    def slice_rows(self, start: int, stop: int) -> Self:
        check_slice("rows", start, stop, self.shape[0], 1)
        return replace(self, left_signs=self.left_signs[start:stop], row_scale=self.row_scale[start:stop])

    def slice_columns(self, start: int, stop: int) -> Self:
        check_slice("columns", start, stop, self.shape[1], 1)
        signs, scale = self.right_signs[:, start:stop], self.column_scale[start:stop]
        return replace(self, right_signs=signs, column_scale=scale)

    def encode(self) -> PackedTensor:
        tensors = {
            "left_signs": bits.pack_fields(self.left_signs.byte(), 1),
            "right_signs": bits.pack_fields(self.right_signs.byte(), 1),
            "row_scale": own_copy(self.row_scale),
            "middle_scale": own_copy(self.middle_scale),
            "column_scale": own_copy(self.column_scale),
        }
        return PackedTensor(self.format, self.shape, tensors, {"rank": self.rank, "exponent": self.exponent})

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. The scales are shared with `packed`, not copied."""
        cls.check_packed(packed)
        settings: dict[str, Any] = dict(packed.settings)
        tensors = packed.tensors
        return cls(
            bits.unpack_fields(tensors["left_signs"], 1, settings["rank"]).bool(),
            bits.unpack_fields(tensors["right_signs"], 1, packed.shape[1]).bool(),
            tensors["row_scale"],
            tensors["middle_scale"],
            tensors["column_scale"],
            settings["exponent"],
        )


def factors_nbytes(shape: tuple[int, int], rank: int) -> int:
    """The bytes that `encode` writes for a weight of this rank, exactly. They grow with the rank."""
    rows, columns = shape
    return (
        rows * bits.stream_bytes(rank, 1) + rank * bits.stream_bytes(columns, 1) + 2 * (rows + rank + columns)
    )


def least_rank(shape: tuple[int, int]) -> int:
    """The smallest rank that a weight of this shape may have: its bytes must be enough (`check_density`)."""
    needed = least_bytes(shape)
    most = -(-needed // bits.stream_bytes(shape[1], 1))  # at this rank the rows of B alone are enough
    return bisect_left(range(1, most + 1), needed, key=lambda rank: factors_nbytes(shape, rank)) + 1


def _check_weight(weight: FactorsWeight) -> None:
    """ValueError, naming the field, for any weight that `factors` cannot hold."""
    for name in ("left_signs", "right_signs"):
        signs = getattr(weight, name)
        require(
            signs.dim() == 2 and signs.numel() > 0,
            f"'{name}' is {list(signs.shape)}; needs two dimensions, each at least 1",
        )
    (rows, rank), columns = weight.left_signs.shape, weight.right_signs.shape[1]
    check_tensor("left_signs", weight.left_signs, "bool", (rows, rank))
    check_tensor("right_signs", weight.right_signs, "bool", (rank, columns))
    for name, size in (("row_scale", rows), ("middle_scale", rank), ("column_scale", columns)):
        check_tensor(name, getattr(weight, name), "float16", (size,))
    check_density(weight.shape, factors_nbytes(weight.shape, rank))
    check_integer("exponent", weight.exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    check_scales(weight.row_scale, weight.middle_scale, weight.column_scale, weight.exponent)
