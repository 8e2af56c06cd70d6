"""Ternary weight networks for bivlm: every weight is -1, 0 or +1 times the scale of its group.

Li, Zhang, Liu, Liu, Yan, arXiv 1605.04711. Over the weights of a group,

    threshold = 0.7 * mean |w|                      Eq. 6
    code      = sign(w) where |w| > threshold, else 0
    scale     = mean |w| where |w| > threshold      Eq. 5: the best scale for these codes

In the paper a layer is one group and a weight takes two bits; here a group is some columns of a row, and five
weights lie in a byte (format `uniform`). What later papers call 1.58 bits leaves out the scales.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats import QuantizedWeight, UniformWeight
from bivlm.formats.encoding.numbers import NumberBits, Numbers
from bivlm.formats.uniform import uniform_nbytes
from bivlm.quantizers import Quantizer
from bivlm.quantizers.base import GroupSize, in_range
from bivlm.quantizers.steps.grid import grouped
from bivlm.types import LinearStats


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Ternary(Quantizer):
    """Settings of ternary weights.

    group_size  columns that share a scale; more than a row has means the whole row
    threshold   share of the mean magnitude below which a weight is 0
    scale_bits  16, 32, or 8 with a 16-bit unit per row
    """

    name: ClassVar[str] = "ternary"

    group_size: GroupSize = 128
    threshold: Annotated[float, Field(gt=0.0, le=2.0)] = 0.7
    scale_bits: NumberBits = 16

    @property
    def needs_data(self) -> bool:
        return False

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> UniformWeight:
        w, exponent = in_range(weight)
        columns = w.shape[1]
        group_size = min(self.group_size, columns)
        groups = grouped(w.abs(), group_size, fill=torch.nan)  # (out, G, group_size)
        large = groups > self.threshold * groups.nanmean(-1, keepdim=True)
        scale = torch.where(large, groups, 0.0).sum(-1, keepdim=True) / large.sum(-1, keepdim=True).clamp_min(
            1
        )
        kept = large.flatten(1)[:, :columns]
        return UniformWeight(
            codes=torch.where(kept, w.sign() + 1, 1.0).to(torch.uint8),
            alphabet=3,
            scales=Numbers.of(scale, self.scale_bits),
            zero_points=torch.zeros(0, dtype=torch.float16),  # none stored: the middle, 1
            column_scale=torch.zeros(0, dtype=torch.float16),  # none
            group_size=group_size,
            exponent=exponent,
        )

    def bits_bound(self, shape: tuple[int, int]) -> float:
        rows, columns = shape
        group_size = min(self.group_size, columns)
        return 8 * uniform_nbytes(shape, 3, group_size, self.scale_bits, "middle", False) / (rows * columns)

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return math.log2(3)
