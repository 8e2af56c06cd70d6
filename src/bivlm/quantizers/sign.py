"""Sign: one bit per weight, with a scale (and a mean) for each group of columns or each row. The plainest
method of one bit.

Rastegari et al., XNOR-Net, arXiv 1603.05279: the best scale for the signs of a group is its mean magnitude,

    w ≈ mean + scale * sign(w - mean),    scale = mean |w - mean|,    mean 0 unless asked for

With `compensate` the columns are quantized one after the other with error feedback (steps/compensation.py),
and `refit` fits the scales and means again under the second moment of the inputs. The "1 bit" of papers
leaves out the scales: 16 bits per group, 0.125 bit per weight for groups of 128.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits, Numbers
from bivlm.formats.planes import PlanesWeight, planes_nbytes
from bivlm.quantizers.base import Damping, GradientPower, GroupSize, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.steps.compensation import column_by_column, compensate, visiting_order
from bivlm.quantizers.steps.grid import grouped
from bivlm.quantizers.steps.sign_planes import plain_planes, refit_planes
from bivlm.types import LinearStats


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sign(Quantizer):
    """Settings of sign binarization.

    group_size       columns that share a scale; more than a row has means the whole row
    mean             subtract the group's mean before taking signs, and store it
    scale_bits       16, 32, or 8 with a 16-bit unit per row
    compensate       feed the error on through the second moment of the inputs; needs calibration data
    act_order        strongest inputs first, for `compensate`
    refit            least squares for scales and means at the end, for `compensate`
    damping          share of the mean diagonal added to the second moment
    block_size       columns between two error pushes
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced",
                     "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "sign"

    group_size: GroupSize = 128
    mean: bool = False
    scale_bits: NumberBits = 16
    compensate: bool = False
    act_order: bool = True
    refit: bool = True
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    @property
    def needs_data(self) -> bool:
        return self.compensate

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> PlanesWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight) if self.compensate else None
        group_size = min(self.group_size, w.shape[1])
        scales, means = self._numbers(w, group_size)
        if hessian is None:
            columns = torch.arange(w.shape[1], dtype=torch.int64, device="cpu") // group_size
            signs = w >= means.expand()[..., 0][:, columns] if means is not None else w >= 0
        else:
            signs = self._with_feedback(w, scales, means, hessian, group_size)
        decided = plain_planes(signs, scales, means, group_size)
        if hessian is not None and self.refit:
            decided = refit_planes(w, decided, hessian, self.scale_bits)
        return replace(decided, exponent=exponent)

    def _numbers(self, w: Tensor, group_size: int) -> tuple[Numbers, Numbers | None]:
        """Scales and means (out, G, 1), in their stored precision."""
        used = grouped(torch.ones(1, w.shape[1], dtype=torch.float32, device="cpu"), group_size)[0]
        count = used.sum(-1)
        values = grouped(w, group_size)
        means = (
            Numbers.of((values.sum(-1) / count)[..., None], self.scale_bits, signed=True)
            if self.mean
            else None
        )
        centred = values - means.expand() if means is not None else values
        return Numbers.of(((centred.abs() * used).sum(-1) / count)[..., None], self.scale_bits), means

    def _with_feedback(
        self, w: Tensor, scales: Numbers, means: Numbers | None, hessian: Tensor, group_size: int
    ) -> Tensor:
        scale = scales.expand()[..., 0].T.contiguous()  # (G, out)
        mean = torch.zeros_like(scale) if means is None else means.expand()[..., 0].T.contiguous()
        order = visiting_order(hessian, self.act_order)
        signs = torch.zeros(w.shape[1], w.shape[0], dtype=torch.bool, device="cpu")

        def quantize_column(column: Tensor, index: int) -> Tensor:
            j = int(order[index])
            group = j // group_size
            signs[j] = column >= mean[group]
            return mean[group] + torch.where(signs[j], scale[group], -scale[group])

        callback = column_by_column(quantize_column)
        compensate(
            w[:, order], hessian[order][:, order], callback, block_size=self.block_size, damping=self.damping
        )
        return signs.T.contiguous()

    def bits_bound(self, shape: tuple[int, int]) -> float:
        stored = planes_nbytes(
            shape,
            group_size=min(self.group_size, shape[1]),
            parts=1,
            salient_parts=0,
            salient_columns=0,
            means=self.mean,
            column_scales=False,
            scale_bits=self.scale_bits,
            tail=0,
        )
        return 8 * stored / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        return 1.0
