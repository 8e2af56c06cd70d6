"""MBQ: AWQ's column scales, chosen by a loss in which visual and text tokens count by their gradients.

Li, Hu, Ning and others, arXiv 2412.19509 (CVPR 2025). With Q round to nearest in groups and s the scales of
the columns for an exponent α (steps/scale_search.py),

    α = argmin  (Σ_text |Δ| + r Σ_visual |Δ|) / (N_text + N_visual)      Δ = (Q(W diag(s)) diag(s)⁻¹ - W) x
    r = size of the gradients of visual tokens / size of those of text tokens

The paper and its public code differ from this:

- They judge q, k and v together by the attention's output, gate and up by the MLP's, and fold the scales into
  the layers before. A quantizer sees one linear: here each has its own scales, judged by its own output, and
  s is stored, 16 bits per column.
- Their gradients are mean |g| over the visual tokens and over those of the answer; the question does not
  count, and r is at least the median over the blocks. Here r is the root of a ratio of mean g² (the
  statistics have squares), the text tokens are all that are not visual, and r has no lower limit: in a last
  block whose visual outputs nobody reads it is 0, and the visual tokens do not count.
- Their mean |x_j| and losses are over all calibration tokens; here over some, evenly spread.

Where all tokens are of one kind (a vision tower, a language model alone) they count the same. The paper
counts the bits of the codes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits
from bivlm.formats.uniform import UniformWeight, uniform_nbytes
from bivlm.quantizers.awq import JUDGED_ROWS, STRONGEST
from bivlm.quantizers.base import GroupSize, Quantizer, in_range, moment_of
from bivlm.quantizers.rtn import rounded
from bivlm.quantizers.steps.grid import ZeroPoint, fit_grid
from bivlm.quantizers.steps.scale_search import Loss, scales_of, search_scales, token_weights
from bivlm.types import LinearStats


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MBQ(Quantizer):
    """Settings of MBQ; the defaults are the paper's.

    bits        2^bits grid points
    group_size  columns that share a scale and a zero point; more than a row has means the whole row
    loss        "mae": Σ |Δ| as above; or "mse": mean Δ² of the text tokens + r times that of the visual ones
    zero_point  "code" (a grid point), "free" (16 bits per group), or "middle" (none stored)
    scale_bits  16, 32, or 8 with a 16-bit unit per row
    clip        search the grid's range as well, as AWQ does
    steps       values of α that are tried, 0, 1 / steps, … below 1
    """

    name: ClassVar[str] = "mbq"
    needs_inputs: ClassVar[bool] = True
    modality_weight = "gradient"

    bits: Annotated[int, Field(ge=1, le=8)] = 3
    group_size: GroupSize = 128
    loss: Loss = "mae"
    zero_point: ZeroPoint = "code"
    scale_bits: NumberBits = 16
    clip: bool = False
    steps: Annotated[int, Field(ge=1, le=100)] = 20

    @property
    def needs_data(self) -> bool:
        return True

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> UniformWeight:
        w, exponent = in_range(weight)
        moment = moment_of(stats, self.modality_weight)
        if moment is None or stats is None:
            return replace(self._scaled(w, torch.ones_like(w[0])), exponent=exponent)
        if stats.inputs is None or stats.inputs_visual is None:
            raise ValueError("this method needs some inputs of the linear, and none were kept")
        x, visual = stats.inputs.float(), stats.inputs_visual
        some = w[:: -(-len(w) // JUDGED_ROWS)]

        def output(weights: Sequence[Tensor]) -> Tensor:
            return x @ weights[0].T

        def quantized(part: Tensor, scales: Tensor) -> Tensor:
            return self._scaled(part, scales).dequantize()

        ratio = _gradient_ratio(stats.visual_share, visual)
        counted = token_weights(visual, ~visual, ratio, self.loss)
        strength = x.abs().mean(0)
        alpha, _ = search_scales(
            [some], strength, quantized, output, counted, loss=self.loss, steps=self.steps
        )
        return replace(self._scaled(w, scales_of(strength, alpha)), exponent=exponent)

    def _scaled(self, w: Tensor, scales: Tensor) -> UniformWeight:
        """The rounded weight with these scales of its columns (in,); the file holds their inverse."""
        inverse = scales.clamp(1 / STRONGEST, STRONGEST).reciprocal().half()
        group_size = min(self.group_size, w.shape[1])
        scaled = w / inverse.float()
        grid = fit_grid(
            scaled,
            torch.ones_like(scales),
            group_size,
            1 << self.bits,
            self.zero_point,
            clip=self.clip,
            scale_bits=self.scale_bits,
        )
        return rounded(scaled, grid, group_size, 0, inverse)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        stored = uniform_nbytes(
            shape, 1 << self.bits, min(self.group_size, shape[1]), self.scale_bits, self.zero_point, True
        )
        return 8 * stored / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return float(self.bits)


def _gradient_ratio(visual_share: float | None, visual: Tensor) -> float:
    """r from the visual tokens' share of the squared gradients and the marks of the tokens (t,); 1 if they
    are all of one kind.
    """
    visuals = int(visual.sum())
    texts = len(visual) - visuals
    if not visuals or not texts or visual_share is None:
        return 1.0
    share = min(max(visual_share, 0.0), 1.0 - 1e-9)
    return math.sqrt(share / visuals / ((1.0 - share) / texts))
