"""LeanQuant: GPTQ with free levels that are best for the weights whose rounding costs the most.

Zhang, Shrivastava, arXiv 2407.10032 (ICLR 2025). With U the upper factor of the damped inverse second moment,
in the order in which columns are visited,

    levels of a row = argmin Σ_j U_jj^-p (w_j - nearest level)²     weighted k-means
    then GPTQ: nearest level, error fed back into the later columns

The paper's p is 3 or 4. The search starts from evenly spaced levels between the smallest and the largest
weight of the row, as the public code does for at most eight levels (for sixteen it draws them at random,
k-means++; here they are evenly spaced as well). The levels are rounded to float16 before codes are chosen;
the public code rounds them when it saves. Its files hold two codes per byte at any number of bits, four bits
for every weight; here a code takes the bits that it needs.

The paper names its rows by the bits of a code. The levels, 16 bits each, come on top: 0.016 bit per weight
for four of them in a row of 4096.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.levels import LevelsWeight, levels_nbytes
from bivlm.quantizers.base import Damping, GradientPower, GroupSize, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.gptq import LossExponent
from bivlm.quantizers.steps.compensation import moment_factor, visiting_order
from bivlm.quantizers.steps.grid import LevelsStart, fit_levels
from bivlm.quantizers.steps.level_feedback import (
    feedback_codes,
    levels_weight,
    loss_importance,
    refit_levels,
)
from bivlm.types import LinearStats

WHOLE_ROW = 1 << 20
ROUNDS = 100  # of k-means, as in the public code


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LeanQuant(Quantizer):
    """Settings of LeanQuant; the defaults are those that the public code recommends.

    bits             2^bits levels
    group_size       columns that share levels; more than a row has means the whole row
    loss_exponent    p: the error of a column counts U_jj^-p when levels are fitted
    start            levels from which the search starts: "range", evenly from the lowest weight to the
                     highest; or "search", those of the best evenly spaced grid
    act_order        strongest inputs first
    refit            least squares for the levels at the end
    damping          share of the mean diagonal added to the second moment
    block_size       columns between two error pushes
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced", "gradient", or
                     the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "leanquant"

    bits: Annotated[int, Field(ge=1, le=4)] = 2
    group_size: GroupSize = WHOLE_ROW
    loss_exponent: LossExponent = 4.0
    start: LevelsStart = "range"
    act_order: bool = True
    refit: bool = False
    damping: Damping = 0.1
    block_size: Annotated[int, Field(ge=1)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    @property
    def needs_data(self) -> bool:
        return True

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> LevelsWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight)
        if hessian is None:
            hessian = torch.eye(w.shape[1], dtype=torch.float32, device="cpu")
        group_size = min(self.group_size, w.shape[1])
        order = visiting_order(hessian, self.act_order)
        factor = moment_factor(hessian[order][:, order], self.damping)
        importance = loss_importance(factor, order, self.loss_exponent)
        levels = fit_levels(w, importance, group_size, 1 << self.bits, ROUNDS, self.start).half()
        codes, _ = feedback_codes(w, levels, factor, order, group_size, self.block_size)
        if self.refit:
            levels = refit_levels(w, levels, codes, hessian, group_size)
        return levels_weight(levels, codes, group_size, exponent)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        stored = levels_nbytes(
            shape,
            alphabet=1 << self.bits,
            symmetric=False,
            group_size=min(self.group_size, shape[1]),
            rows_of_tables=shape[0],
            tail=0,
        )
        return 8 * stored / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return float(self.bits)
