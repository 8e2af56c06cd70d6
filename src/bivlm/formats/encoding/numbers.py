"""Scales and means as a file stores them: float32, float16, or eight bits times a float16 unit for each row.

    value[i, g, k] = stored[i, g, k]                     float32, float16
    value[i, g, k] = stored[i, g, k] * unit[i, k]        uint8 (never negative), int8

They are relative to 2^exponent of their weight. This keeps float16 in range for weights of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from bivlm.formats.encoding.checks import same_bits
from bivlm.formats.encoding.number_checks import LARGEST_EXPONENT, check_numbers, expanded

NumberBits = Literal[8, 16, 32]

NEEDS_NO_EXPONENT = (
    2.0**-9,
    2.0**12,
)  # a largest value between these leaves float16 enough range below and above it


@dataclass(frozen=True, eq=False)
class Numbers:
    """`stored` (out, G, K) float32, float16, uint8 or int8; `unit` (out, K) float16, not negative, for the
    eight-bit types, else empty (0,).
    """

    stored: Tensor
    unit: Tensor

    def __post_init__(self) -> None:
        check_numbers(self.stored, self.unit)

    @classmethod
    def of(cls, values: Tensor, bits: NumberBits = 16, *, signed: bool = False) -> Self:
        """The nearest numbers of `bits` bits to `values` (out, G, K); without `signed` no value may be
        negative.
        """
        nothing = torch.zeros(0, dtype=torch.float16, device=values.device)
        if bits == 32:
            return cls(values.float(), nothing)
        if bits == 16:
            return cls(values.half(), nothing)
        steps = 127 if signed else 255
        unit = (values.abs().amax(1) / steps).half()
        unit = torch.where(
            values.abs().amax(1) > unit.float() * (steps + 0.5),
            unit.nextafter(unit.new_full((), torch.inf)),
            unit,
        )
        codes = torch.where(unit[:, None] > 0, values / unit[:, None].float(), 0.0).round()
        return cls(
            codes.clamp(-steps if signed else 0, steps).to(torch.int8 if signed else torch.uint8), unit
        )

    def some(self, rows: slice, groups: slice, kinds: slice = slice(None)) -> Self:
        """The numbers of these rows, groups and kinds."""
        unit = self.unit[rows, kinds] if self.in_eight_bits else self.unit
        return replace(self, stored=self.stored[rows, groups, kinds], unit=unit)

    @property
    def in_eight_bits(self) -> bool:
        return self.stored.dtype in (torch.uint8, torch.int8)

    @property
    def nbytes(self) -> int:
        return self.stored.numel() * self.stored.element_size() + self.unit.numel() * self.unit.element_size()

    def expand(self) -> Tensor:
        """The values (out, G, K) in float32."""
        return expanded(self.stored, self.unit)

    def __eq__(self, other: object) -> bool:
        """The same bits (so -0.0 is not 0.0)."""
        if not isinstance(other, Numbers):
            return NotImplemented
        return same_bits(self.stored, other.stored) and same_bits(self.unit, other.unit)


def as_signs(positive: Tensor) -> Tensor:
    """Booleans as float32: +1 where True, -1 where False. A new tensor."""
    return positive.float().mul_(2.0).sub_(1.0)


def numbers_nbytes(rows: int, groups: int, kinds: int, bits: NumberBits) -> int:
    """Bytes that (rows, groups, kinds) numbers of `bits` bits take, their units included."""
    return rows * groups * kinds * bits // 8 + (2 * rows * kinds if bits == 8 else 0)


def exponent_for(values: Tensor) -> int:
    """The e for which `values` / 2^e fit float16; 0 if they fit unchanged, so that the values themselves are
    stored.
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest == 0 or NEEDS_NO_EXPONENT[0] <= largest <= NEEDS_NO_EXPONENT[1]:
        return 0
    return max(-LARGEST_EXPONENT, min(LARGEST_EXPONENT, math.frexp(largest)[1]))
