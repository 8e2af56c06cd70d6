"""Round to nearest: each weight goes to the closest grid point of its group. No data used.

    w ≈ scale * (code - zero_point)

The scale is the group's range divided by the number of steps, as usual. `clip` searches a smaller range, with
least squares for scale and zero point (steps/grid.py), which is the best that can be done without data. The
"2 bits" of published tables leave out scales and zero points.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits
from bivlm.formats.uniform import UniformWeight, uniform_nbytes
from bivlm.quantizers.base import GroupSize, Quantizer, in_range
from bivlm.quantizers.steps.grid import Grid, ZeroPoint, fit_grid, nearest_codes
from bivlm.types import LinearStats


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RTN(Quantizer):
    """Settings of round to nearest.

    bits        2^bits grid points
    alphabet    the number of grid points where it is no power of two (3 is ternary: 1.6 bits stored); takes
                the place of `bits`
    group_size  columns that share a scale and a zero point; more than a row has means the whole row
    zero_point  "free" (16 bits per group), "code" (a grid point), or "middle" (none stored)
    scale_bits  16, 32, or 8 with a 16-bit unit per row
    clip        search the grid's range; without it the range is that of the group's weights
    """

    name: ClassVar[str] = "rtn"

    bits: Annotated[int, Field(ge=1, le=8)] = 2
    alphabet: Annotated[int, Field(ge=2, le=16)] | None = None
    group_size: GroupSize = 128
    zero_point: ZeroPoint = "free"
    scale_bits: NumberBits = 16
    clip: bool = True

    @property
    def points(self) -> int:
        return self.alphabet or 1 << self.bits

    @property
    def needs_data(self) -> bool:
        return False

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> UniformWeight:
        w, exponent = in_range(weight)
        group_size = min(self.group_size, w.shape[1])
        even = torch.ones(w.shape[1], dtype=torch.float32, device="cpu")
        grid = fit_grid(
            w, even, group_size, self.points, self.zero_point, clip=self.clip, scale_bits=self.scale_bits
        )
        return rounded(w, grid, group_size, exponent, torch.zeros(0, dtype=torch.float16, device="cpu"))

    def bits_bound(self, shape: tuple[int, int]) -> float:
        stored = uniform_nbytes(
            shape, self.points, min(self.group_size, shape[1]), self.scale_bits, self.zero_point, False
        )
        return 8 * stored / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return math.log2(self.points)


def rounded(w: Tensor, grid: Grid, group_size: int, exponent: int, column_scale: Tensor) -> UniformWeight:
    """Every weight of `w` (out, in) rounded to its group's nearest grid point; `column_scale` (in,) float16
    is stored with it, or is empty.
    """
    columns = torch.arange(w.shape[1], dtype=torch.int64, device="cpu") // group_size
    codes = nearest_codes(w, grid.scale()[:, columns], grid.zero()[:, columns], grid.alphabet)
    return UniformWeight(
        codes.to(torch.uint8),
        grid.alphabet,
        grid.scales,
        grid.zero_points,
        column_scale,
        group_size,
        exponent,
    )
