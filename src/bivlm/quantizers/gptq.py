"""GPTQ: columns are rounded one after the other, and each error is fed back into the later columns.

Frantar, Ashkboos, Hoefler, Alistarh, arXiv 2210.17323. With H the second moment of the inputs and U the upper
factor of its damped inverse,

    q_j = nearest grid point of w_j
    w_k ← w_k - (w_j - q_j) / U_jj * U_jk   for k > j   (steps/compensation.py)

The grid is evenly spaced, w ≈ scale * (code - zero_point), or free levels per group (`grid="lloyd"`).
Additions to the paper: grids weighted by the inputs of the columns, H_jj, and at the end a closed-form refit
of scales and zero points, or levels, under H (steps/refit.py), in the rows where it helps. Inside the loop
the cost of an error is 1 / U_jj², not H_jj. `grid_weight="loss"` weighs the grids with it, or with another
power of 1 / U_jj, as LeanQuant does (leanquant.py): the error on the calibration data is smaller, the one on
other data was larger.

With activation order the grids are fitted before the loop ("static groups"), so no index of groups has to be
stored. Without it each group's grid is fitted when the loop reaches the group, on its weights after feedback.
The paper counts `bits` per weight: it leaves out scales and zero points, 16 + 16 bits per group.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits, Numbers
from bivlm.formats.levels import LevelsWeight, levels_nbytes
from bivlm.formats.uniform import UniformWeight, uniform_nbytes
from bivlm.quantizers.base import Damping, GradientPower, GroupSize, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.steps.compensation import (
    column_by_column,
    even_blocks,
    feed_back,
    moment_factor,
    visiting_order,
)
from bivlm.quantizers.steps.grid import Grid, ZeroPoint, fit_grid, fit_levels, nearest_codes
from bivlm.quantizers.steps.level_feedback import (
    feedback_codes,
    levels_weight,
    loss_importance,
    refit_levels,
)
from bivlm.quantizers.steps.refit import better_rows, refitted
from bivlm.types import LinearStats

LossExponent = Annotated[float, Field(ge=0.0, le=8.0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class GPTQ(Quantizer):
    """Settings of GPTQ.

    bits             2^bits grid points
    alphabet         the number of grid points where it is no power of two (3 is ternary: 1.6 bits stored);
                     takes the place of `bits`
    group_size       columns that share a scale and a zero point; more than a row has means the whole row
    grid             "uniform", or "lloyd": free levels per group, stored in 16 bits each (at most 16 of them)
    grid_weight      what the errors of a column count when a grid is fitted: "inputs", the strength H_jj of
                     its inputs; or "loss", U_jj^-loss_exponent, their cost after feedback
    loss_exponent    for grid_weight "loss"
    zero_point       of the uniform grid: "free" (16 bits per group), "code" (a grid point, as in the paper's
                     code), or "middle" (none stored)
    scale_bits       16, 32, or 8 with a 16-bit unit per row
    clip             search the grid's range; without it the range is that of the group's weights
    act_order        strongest inputs first
    refit            least squares for scales and zero points, or levels, at the end
    damping          share of the mean diagonal added to the second moment
    block_size       columns between two error pushes
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced",
                     "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "gptq"

    bits: Annotated[int, Field(ge=1, le=8)] = 2
    alphabet: Annotated[int, Field(ge=2, le=16)] | None = None
    group_size: GroupSize = 128
    grid: Literal["uniform", "lloyd"] = "uniform"
    grid_weight: Literal["inputs", "loss"] = "inputs"
    loss_exponent: LossExponent = 2.0
    zero_point: ZeroPoint = "free"
    scale_bits: NumberBits = 16
    clip: bool = True
    act_order: bool = True
    refit: bool = True
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    def __post_init__(self) -> None:
        if self.grid == "lloyd" and self.points > 16:
            raise ValueError(
                f"free levels are at most 16 (4 bits), not {self.points}; choose fewer bits or grid='uniform'"
            )

    @property
    def points(self) -> int:
        return self.alphabet or 1 << self.bits

    @property
    def needs_data(self) -> bool:
        return True

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> QuantizedWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight)
        if hessian is None:
            hessian = torch.eye(w.shape[1], dtype=torch.float32, device="cpu")
        group_size = min(self.group_size, w.shape[1])
        if self.grid == "lloyd":
            return self._with_levels(w, exponent, hessian, group_size)
        grid, codes = self._with_grid(w, hessian, group_size)
        decided = UniformWeight(
            codes,
            self.points,
            grid.scales,
            grid.zero_points,
            torch.zeros(0, dtype=torch.float16, device="cpu"),
            group_size,
            0,
        )
        if self.refit:
            decided = refit_uniform(w, decided, hessian, self.scale_bits)
        return replace(decided, exponent=exponent)

    def _with_grid(self, w: Tensor, hessian: Tensor, group_size: int) -> tuple[Grid, Tensor]:
        """The grids of all groups, and the codes (out, in)."""
        order, factor, importance = self._visit(hessian)
        columns = w.shape[1]
        settings = {"clip": self.clip, "scale_bits": self.scale_bits}
        grid = fit_grid(w, importance, group_size, self.points, self.zero_point, **settings)
        scale, zero = (
            grid.scale().T.contiguous(),
            grid.zero().T.contiguous(),
        )  # (G, out): a group's numbers lie together
        stored, points = grid.scales, grid.zero_points
        codes = torch.zeros(columns, w.shape[0], dtype=torch.float32, device="cpu")

        def begin(rest: Tensor, index: int) -> None:
            if index % group_size == 0 and index:
                mine = slice(index, index + group_size)
                group = index // group_size
                fresh = fit_grid(
                    rest[:, :group_size],
                    importance[mine],
                    min(group_size, columns - index),
                    self.points,
                    self.zero_point,
                    **settings,
                )
                scale[group], zero[group] = fresh.scale()[:, 0], fresh.zero()[:, 0]

        def quantize_column(column: Tensor, index: int) -> Tensor:
            j = int(order[index])
            group = j // group_size
            codes[j] = nearest_codes(column, scale[group], zero[group], self.points)
            return codes[j].sub(zero[group]).mul_(scale[group])

        dynamic = not self.act_order and group_size < columns
        block_size = (
            max(group_size, self.block_size // group_size * group_size) if dynamic else self.block_size
        )
        callback = column_by_column(quantize_column, begin if dynamic else None)
        feed_back(w[:, order], factor, callback, even_blocks(columns, block_size))
        if dynamic:
            stored = Numbers.of(scale.T[..., None].contiguous(), self.scale_bits)
            points = zero.T.to(points.dtype).contiguous() if points.numel() else points
        return Grid(stored, points, self.points), codes.T.to(torch.uint8).contiguous()

    def _visit(self, hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The order in which columns are visited, the moment's factor in this order, and what the columns'
        errors count when a grid is fitted, (in,) in their own order.
        """
        order = visiting_order(hessian, self.act_order)
        factor = moment_factor(hessian[order][:, order], self.damping)
        if self.grid_weight == "inputs":
            return order, factor, hessian.diagonal()
        return order, factor, loss_importance(factor, order, self.loss_exponent)

    def _with_levels(self, w: Tensor, exponent: int, hessian: Tensor, group_size: int) -> LevelsWeight:
        order, factor, importance = self._visit(hessian)
        levels = fit_levels(w, importance, group_size, self.points).half()
        codes, _ = feedback_codes(w, levels, factor, order, group_size, self.block_size)
        if self.refit:
            levels = refit_levels(w, levels, codes, hessian, group_size)
        return levels_weight(levels, codes, group_size, exponent)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        rows, columns = shape
        group_size = min(self.group_size, columns)
        if self.grid == "lloyd":
            stored = levels_nbytes(
                shape,
                alphabet=self.points,
                symmetric=False,
                group_size=group_size,
                rows_of_tables=rows,
                tail=0,
            )
        else:
            stored = uniform_nbytes(shape, self.points, group_size, self.scale_bits, self.zero_point, False)
        return 8 * stored / (rows * columns)

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return math.log2(self.points)


def refit_uniform(
    w: Tensor, decided: UniformWeight, hessian: Tensor, scale_bits: NumberBits
) -> UniformWeight:
    """Scales (and free zero points) by least squares under `hessian`, in the rows where it helps after
    rounding.
    """
    scale = decided.scales.expand()
    codes = decided.codes.float()
    free = decided.zero_points.dtype == torch.float16 and decided.zero_points.numel() > 0
    if free:
        theta = torch.cat([scale, -scale * decided.zero_points.float()[..., None]], -1)
        basis = torch.stack([codes, torch.ones_like(codes)])
    else:
        columns = torch.arange(w.shape[1], dtype=torch.int64, device="cpu") // decided.group_size
        zero = (
            decided.zero_points.float()[:, columns]
            if decided.zero_points.numel()
            else torch.tensor((decided.alphabet - 1) / 2, dtype=torch.float32, device="cpu")
        )
        theta, basis = scale, (codes - zero)[None]
    better = refitted(w, theta, basis, hessian, decided.group_size)
    usable = better[..., :1] > 0
    scales = torch.where(usable, better[..., :1], scale)
    points = decided.zero_points
    if free:
        points = (
            torch.where(usable[..., 0], -better[..., 1] / scales[..., 0], points.float())
            .clamp(-1024.0, 1024.0)
            .half()
        )
    trial = replace(decided, scales=Numbers.of(scales, scale_bits), zero_points=points)
    helps = better_rows(w, decided.dequantize(), trial.dequantize(), hessian)
    scales = torch.where(helps[:, None, None], trial.scales.expand(), scale)
    points = torch.where(helps[:, None], points, decided.zero_points) if free else points
    return replace(decided, scales=Numbers.of(scales, scale_bits), zero_points=points)
