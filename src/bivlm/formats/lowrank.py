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
from bivlm.formats.encoding.checks import blaming, check_density, known_settings, require, same_bits
from bivlm.formats.nested import FORMAT, INSIDE, check_kinds, check_names, check_part, part_of, stored_part

LEFT, RIGHT = "left_", "right_"
MOST_RANK = 1 << 31
MOST_NUMBERS_PER_BYTE = 256  # of a factor: the check expands both
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
                _check_density(name, part.encode())
        _check_size(self.left.dequantize(), self.right.dequantize())

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
    def check_packed(cls, packed: PackedTensor) -> None:
        with blaming("lowrank"):
            parts = factors_of(packed)
            check_names(packed, list(parts), [])
            for prefix, part in parts.items():
                check_part(prefix, part)
                _check_density(prefix.removesuffix("_"), part)
            check_density(packed.shape, packed.nbytes)
            left, right = (INSIDE[part.format].decode(part).dequantize() for part in parts.values())
            _check_size(left, right)

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        cls.check_packed(packed)
        left, right = factors_of(packed).values()
        some = INSIDE[left.format].unpack_rows(left, index)
        return some @ INSIDE[right.format].decode(right).dequantize()


def factors_of(packed: PackedTensor) -> Mapping[str, PackedTensor]:
    """A and B as packed weights, by their prefixes. Only settings and shape are looked at: ValueError where
    they cannot be those of a weight.
    """
    given = packed.settings if isinstance(packed.settings, Mapping) else {}
    inside = [name for name in given if isinstance(name, str) and name.startswith((LEFT, RIGHT))]
    needed = ["rank", f"{LEFT}{FORMAT}", f"{RIGHT}{FORMAT}"]
    rank = known_settings(packed, "lowrank", needed, inside)["rank"]
    require(type(rank) is int and 1 <= rank < MOST_RANK, f"'rank' is {rank!r}; needs an integer, at least 1")
    rows, columns = packed.shape
    return {LEFT: part_of(packed, LEFT, (rows, rank)), RIGHT: part_of(packed, RIGHT, (rank, columns))}


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


def _check_density(name: str, part: PackedTensor) -> None:
    rows, columns = part.shape
    require(
        rows * columns <= MOST_NUMBERS_PER_BYTE * part.nbytes,
        f"'{name}' is {(rows, columns)} in {part.nbytes} bytes; a factor has at most"
        f" {MOST_NUMBERS_PER_BYTE} numbers for each of its bytes",
    )


def _check_size(left: Tensor, right: Tensor) -> None:
    """The sum of the magnitudes of a row of A, times the largest magnitude of B, must not overflow."""
    largest = left.abs().sum(1).max() * right.abs().max()
    require(bool(torch.isfinite(largest)), "the product of 'left' and 'right' overflows float32")
