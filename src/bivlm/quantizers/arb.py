"""ARB-LLM: the parts of BiLLM, with scales, means and signs refined in alternation.

Li et al., arXiv 2410.03129. A block of columns is split into parts as in BiLLM (steps/partition.py); then,
for the masked weights of each part,

    plain    w ≈ mean + Σ scale * sign: mean, scales and signs in turns, each the best for the others; Eq. 4-7
    x        the same, then means and scales under the second moment S of the block's inputs,
             tr((W-Q) S (W-Q)ᵀ); Eq. 8-10
    rc       w ≈ Σ row scale * column scale * sign, no means: row scales, column scales and signs in turns;
             Eq. 11-13

No step raises its objective. The paper alternates mean and scale for "x"; their common minimum is a small
linear system, which is solved directly here. With `column_groups` (the column-group bitmap, section 3.4) the
salient columns are split by magnitude as well. The public code runs the refinement inside its searches for
the parts; here the parts are found as in BiLLM and then refined once.

The paper counts as BiLLM does, 1.06 to 1.11 bits. It leaves out the same: the bit that names the part, and
the numbers of every row and block. The true count is 2.5 to 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits, as_signs
from bivlm.formats.planes import PlanesWeight
from bivlm.quantizers.base import Damping, GradientPower, Quantizer, Weighting
from bivlm.quantizers.steps.compensation import ErrorRule
from bivlm.quantizers.steps.parted_blocks import Salience, quantize_blocks
from bivlm.quantizers.steps.partition import magnitude_threshold
from bivlm.quantizers.steps.residual import Binarized, binarize
from bivlm.quantizers.steps.sign_planes import (
    BlockPlanes,
    block_planes,
    parted,
    parted_nbytes,
    refit_planes,
)
from bivlm.types import LinearStats

Variant = Literal["plain", "x", "rc"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ARB(Quantizer):
    """Settings of ARB-LLM.

    variant          "plain", "x" or "rc"
    column_groups    split the salient columns by magnitude too
    rounds           rounds of the alternating refinement
    salience         the values that the searches for salient columns and magnitude parts use
    most_salient     largest number of salient columns in a block
    compensate       feed the error of each block on; without it, and with magnitude salience and a variant
                     other than "x", no data are needed
    error_rule       "exact", or "diagonal" as in the public code
    refit            least squares for scales and means of the whole weight at the end
    scale_bits       16, 32, or 8 with a 16-bit unit per row
    damping          share of the mean diagonal added to the second moment
    block_size       columns that share their numbers, between two error pushes
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced",
                     "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "arb"

    variant: Variant = "rc"
    column_groups: bool = True
    rounds: Annotated[int, Field(ge=0, le=1000)] = 15
    salience: Salience = "magnitude"
    most_salient: Annotated[int, Field(ge=1)] = 49
    compensate: bool = True
    error_rule: ErrorRule = "exact"
    refit: bool = False
    scale_bits: NumberBits = 16
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=2)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    @property
    def needs_data(self) -> bool:
        return self.compensate or self.salience == "hessian" or self.refit or self.variant == "x"

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> PlanesWeight:
        return quantize_blocks(
            self,
            weight,
            stats,
            self._block,
            salient_parts=2 if self.column_groups else 1,
            refine=refit_planes if self.variant == "x" else None,
        )

    def _block(self, block: Tensor, target: Tensor) -> BlockPlanes:
        salient, small, large = parted(target, self.most_salient)
        special = [salient.expand_as(small)]
        if self.column_groups and bool(salient.any()):
            inside = target[:, salient]
            high = (
                target.abs()
                >= magnitude_threshold(inside, torch.zeros(inside.shape[1], dtype=torch.bool, device="cpu"))
            ) & salient
            special, large = [~high & salient, high], large | high
        elif self.column_groups:
            special = special * 2
        masks = [(small, 1), (large & ~salient, 1), *((mask, 2) for mask in special)]
        if self.variant == "rc":
            return _rc_planes(
                salient, large, [alternate_rc(block, mask, order, self.rounds) for mask, order in masks]
            )
        pieces = [alternate(block, mask, binarize(block, mask, order), self.rounds) for mask, order in masks]
        return block_planes(salient, large, pieces)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        stored = parted_nbytes(
            shape,
            self.block_size,
            self.most_salient,
            self.scale_bits,
            salient_parts=2 if self.column_groups else 1,
            means=self.variant != "rc",
            column_scales=self.variant == "rc",
        )
        return 8 * stored / (shape[0] * shape[1])

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        assert isinstance(quantized, PlanesWeight)
        return 1.0 + float(quantized.salient.float().mean())


def alternate(w: Tensor, mask: Tensor, start: Binarized, rounds: int) -> Binarized:
    """Refine mean, scales (one or two) and signs of the weights `w` (out, b) under `mask` in alternation:
    ‖W - Q‖² never rises.
    """
    count = mask.sum(1).clamp_min(1)
    target = torch.where(mask, w, 0.0)
    mean, scales, signs = start.mean, start.scales.clone(), start.signs

    def masked_mean(values: Tensor) -> Tensor:
        return torch.where(mask, values, 0.0).sum(1) / count

    for _ in range(rounds):
        mean = masked_mean(target - torch.einsum("ok,kob->ob", scales, signs))
        for k in range(len(signs)):
            others = [scales[:, other, None] * signs[other] for other in range(len(signs)) if other != k]
            scales[:, k] = masked_mean(signs[k] * (target - mean[:, None] - sum(others)))
        signs = nearest_signs(target - mean[:, None], [scales[:, k, None] for k in range(len(signs))])
    return Binarized(mean, scales, signs)


def nearest_signs(target: Tensor, scales: list[Tensor]) -> Tensor:
    """The signs (K, out, b), K one or two, for which Σ scale * sign is nearest to `target` (out, b); scales
    broadcast against it.
    """
    if len(scales) == 1:
        return as_signs(target * scales[0] >= 0)[None]
    large, small = (scales[0], scales[1])
    wins = (
        large.abs() >= small.abs()
    )  # the larger scale's sign is that of the target; the smaller one follows the rest
    first = as_signs(target * torch.where(wins, large, small) >= 0)
    rest = target - first * torch.where(wins, large, small)
    second = as_signs(rest * torch.where(wins, small, large) >= 0)
    return torch.stack([torch.where(wins, first, second), torch.where(wins, second, first)])


def alternate_rc(w: Tensor, mask: Tensor, order: int, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row scales (out, K), column scales (K, b) and signs (K, out, b) of the weights of `w` (out, b) under
    `mask`, refined in alternation.

    Column scales have mean 1 over the columns that have a masked weight; the others are 1.
    """
    target = torch.where(mask, w, 0.0)
    used_rows, used_columns = mask.any(1), mask.any(0)
    rest, rows, columns, signs = target, [], [], []
    for _ in range(order):
        row = rest.abs().sum(1) / mask.sum(1).clamp_min(1)
        ratio = torch.where(row[:, None] > 0, rest.abs() / row[:, None].clamp_min(1e-30), 0.0)
        column = torch.where(used_columns, ratio.sum(0) / mask.sum(0).clamp_min(1), 1.0)
        sign = as_signs(rest >= 0)
        rest = torch.where(mask, rest - row[:, None] * column * sign, 0.0)
        rows.append(row)
        columns.append(column)
        signs.append(sign)
    weight = mask.float()
    for _ in range(rounds):
        for k in range(order):
            others = [
                rows[other][:, None] * columns[other] * signs[other] for other in range(order) if other != k
            ]
            goal = weight * signs[k] * (target - sum(others))
            rows[k] = torch.where(
                used_rows, _quotient(goal @ columns[k], weight @ columns[k].square(), rows[k]), 0.0
            )
            columns[k] = torch.where(
                used_columns, _quotient(goal.T @ rows[k], weight.T @ rows[k].square(), columns[k]), 1.0
            )
        signs = list(nearest_signs(target, [rows[k][:, None] * columns[k] for k in range(order)]))
    for k in range(order):
        size = (
            columns[k][used_columns].abs().mean()
            if bool(used_columns.any())
            else torch.tensor(1.0, dtype=torch.float32, device="cpu")
        )
        if size > 0:
            rows[k], columns[k] = rows[k] * size, torch.where(used_columns, columns[k] / size, 1.0)
    return torch.stack(rows, 1), torch.stack(columns), torch.stack(signs)


def _quotient(above: Tensor, below: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(below > 0, above / below, otherwise)


def _rc_planes(
    salient: Tensor, partition: Tensor, pieces: list[tuple[Tensor, Tensor, Tensor]]
) -> BlockPlanes:
    plain = [
        Binarized(torch.zeros(len(rows), dtype=torch.float32, device="cpu"), rows, signs)
        for rows, _, signs in pieces
    ]
    columns = torch.cat(
        [
            torch.where(salient if index >= 2 else ~salient, columns, 0.0)
            for index, (_, columns, _) in enumerate(pieces)
        ]
    )
    return replace(block_planes(salient, partition, plain), means=None, column_scales=columns)
