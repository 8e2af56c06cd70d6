"""`lowrank`: a product of two smaller packed weights, each in any format that holds no others.

    W = A B,      A (out, rank), B (rank, in)

Weights that receive the same input may have the same B; a folder stores it once (docs/format.md, which has
every byte).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding.checks import require, same_bits
from bivlm.formats.encoding.lowrank_checks import LEFT, RIGHT, check_factor_density, factors_of
from bivlm.formats.nested import INSIDE, check_kinds, stored_part

SPARSE = ("factors", "trellis")  # the formats whose weights may have more


@dataclass(frozen=True, eq=False)
class LowrankWeight(QuantizedWeight):
    """A weight of (out, in) in `lowrank`: `left` is A (out, rank), `right` is B (rank, in), both on one
    device. No number of the product overflows float32. ValueError, naming the field, for anything else.
    """

    format: ClassVar[str] = "lowrank"

    left: QuantizedWeight
    right: QuantizedWeight

    def check(self) -> None:
        check_kinds({"left": self.left, "right": self.right})
        (_, rank), (rows, _) = self.left.shape, self.right.shape
        require(rank == rows, f"'left' has {rank} columns and 'right' {rows} rows; needs as many, the rank")
        for name, part in (("left", self.left), ("right", self.right)):
            if part.format in SPARSE:
                check_factor_density(name, part.encode())
        check_size(self.left.dequantize(), self.right.dequantize())

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    def dequantize(self) -> Tensor:
        return self.left.dequantize() @ self.right.dequantize()

    def slice_rows(self, start: int, stop: int) -> Self:
        """Rows of A; InputError where its format cannot be cut there."""
        return replace(self, left=self.left.slice_rows(start, stop))

    def slice_columns(self, start: int, stop: int) -> Self:
        """Columns of B; InputError where its format cannot be cut there."""
        return replace(self, right=self.right.slice_columns(start, stop))

    def encode(self) -> PackedTensor:
        left, right = (
            stored_part(prefix, part.encode()) for prefix, part in ((LEFT, self.left), (RIGHT, self.right))
        )
        settings: dict[str, Any] = {"rank": self.rank, **left[1], **right[1]}
        return PackedTensor(self.format, self.shape, {**left[0], **right[0]}, settings)

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. Numbers of the parts are shared with `packed`, not copied."""
        cls.check_packed(packed)
        return cls(*(INSIDE[part.format].decode(part) for part in factors_of(packed).values()))

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        cls.check_packed(packed)
        left, right = factors_of(packed).values()
        some = INSIDE[left.format].unpack_rows(left, index)
        return some @ INSIDE[right.format].decode(right).dequantize()


def shared_tensors(packed: Mapping[str, PackedTensor]) -> dict[str, dict[str, str]]:
    """The tensors of B that some weights have in common with an earlier one of `packed`: for every weight, by
    the tensor's name, the name of the weight that stores it.
    """
    found: dict[str, dict[str, str]] = {}
    kept: dict[str, dict[str, Tensor]] = {}
    for name, weight in packed.items():
        own = {part: value for part, value in weight.tensors.items() if part.startswith(RIGHT)}
        own = own if weight.format == "lowrank" else {}
        first = next((other for other, theirs in kept.items() if own and _same(own, theirs)), None)
        found[name] = {} if first is None else dict.fromkeys(own, first)
        if first is None:
            kept[name] = own
    return found


def _same(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return own.keys() == theirs.keys() and all(same_bits(own[name], theirs[name]) for name in own)


def check_size(left: Tensor, right: Tensor) -> None:
    """The sum of the magnitudes of a row of A, times the largest magnitude of B, must not overflow."""
    largest = left.abs().sum(1).max() * right.abs().max()
    require(bool(torch.isfinite(largest)), "the product of 'left' and 'right' overflows float32")
