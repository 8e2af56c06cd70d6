"""AWQ: columns with strong inputs are scaled up before rounding to nearest, and their inputs scaled down.

Lin et al., arXiv 2306.00978. With x̄_j the strength of input j, s_j = x̄_j^α and Q round-to-nearest with a
clipping search,

    W x = (W diag(s)) (diag(s)⁻¹ x) ≈ Q(W diag(s)) diag(s)⁻¹ x
    α = argmin over a grid of 20 in [0, 1] of the layer's error

The layer's error is tr((W-Q) H (W-Q)ᵀ) with the second moment H of the inputs. x̄_j is sqrt(H_jj); the paper
takes mean |x_j|. AWQ folds diag(s)⁻¹ into the previous layer. Here every linear is quantized separately, so s
is stored, 16 bits per column (0.004 bit per weight at 4096 rows), and counted. The paper counts only the bits
of the codes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits
from bivlm.formats.uniform import UniformWeight, uniform_nbytes
from bivlm.quantizers.base import GradientPower, GroupSize, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.rtn import rounded
from bivlm.quantizers.steps.grid import ZeroPoint, fit_grid
from bivlm.types import LinearStats

# α is chosen by the error of at most this many rows, evenly spread: the best α differs little between rows,
# and the cost of the search is proportional to their number
JUDGED_ROWS = 256
STRONGEST = 2.0**10  # column scales lie within this factor of their geometric mean, above and below


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AWQ(Quantizer):
    """Settings of AWQ.

    bits             2^bits grid points
    alphabet         the number of grid points where it is no power of two (3 is ternary: 1.6 bits stored);
                     takes the place of `bits`
    group_size       columns that share a scale and a zero point; more than a row has means the whole row
    zero_point       "free" (16 bits per group), "code" (a grid point, as in the paper's code), or "middle"
                     (none stored)
    scale_bits       16, 32, or 8 with a 16-bit unit per row
    clip             search the grid's range as well
    steps            values of α that are tried, 0 to 1
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced",
                     "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "awq"

    bits: Annotated[int, Field(ge=1, le=8)] = 2
    alphabet: Annotated[int, Field(ge=2, le=16)] | None = None
    group_size: GroupSize = 128
    zero_point: ZeroPoint = "free"
    scale_bits: NumberBits = 16
    clip: bool = True
    steps: Annotated[int, Field(ge=1, le=100)] = 20
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    @property
    def points(self) -> int:
        return self.alphabet or 1 << self.bits

    @property
    def needs_data(self) -> bool:
        return True

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> UniformWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight)
        strength = (
            torch.ones(w.shape[1], dtype=torch.float32, device="cpu")
            if hessian is None
            else hessian.diagonal().clamp_min(0.0).sqrt()
        )
        if hessian is None:
            return replace(self._scaled(w, strength, 0.0), exponent=exponent)
        some = w[:: -(-len(w) // JUDGED_ROWS)]
        losses = []
        for alpha in self._alphas():
            difference = some - self._scaled(some, strength, alpha).dequantize()
            losses.append(float(((difference @ hessian) * difference).sum()))
        return replace(
            self._scaled(w, strength, self._alphas()[losses.index(min(losses))]), exponent=exponent
        )

    def _alphas(self) -> list[float]:
        return [step / max(self.steps - 1, 1) for step in range(self.steps)]

    def _scaled(self, w: Tensor, strength: Tensor, alpha: float) -> UniformWeight:
        """The rounded weight with column scales strength^alpha; the file holds their inverse. A column
        without input is not scaled.
        """
        log = torch.where(strength > 0, strength.clamp_min(1e-30).log(), 0.0) * alpha
        centre = log[strength > 0].mean() if bool((strength > 0).any()) else log.mean()
        log = torch.where(strength > 0, log - centre, 0.0).clamp(-math.log(STRONGEST), math.log(STRONGEST))
        inverse = (-log).exp().half()
        group_size = min(self.group_size, w.shape[1])
        importance = (strength * inverse.float()).square()
        scaled = w / inverse.float()
        grid = fit_grid(
            scaled,
            importance,
            group_size,
            self.points,
            self.zero_point,
            clip=self.clip,
            scale_bits=self.scale_bits,
        )
        return rounded(scaled, grid, group_size, 0, inverse)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        stored = uniform_nbytes(
            shape, self.points, min(self.group_size, shape[1]), self.scale_bits, self.zero_point, True
        )
        return 8 * stored / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return math.log2(self.points)
