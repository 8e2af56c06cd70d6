"""PB-LLM: partial binarization. A share of the weights, the salient ones at any position, is kept in eight
bits; the others are signs and a scale.

Shang, Yuan, Wu, Dong, arXiv 2310.00034 (post-training part). With U the upper factor of the damped inverse
second moment of the inputs,

    saliency       |w|  or  w² / U_jj²                                              "magnitude", "hessian"
    salient        the largest `salient` share of the saliencies in a group of columns, over all rows
    salient        w ≈ step_i * (code - zero_i), 256 codes: a grid per row, from the least to the greatest
                   salient weight
    others         w ≈ mean + scale * sign(w - mean), scale = mean |w - mean|, per row and group, mean 0
                   unless asked for

With `compensate` columns are quantized one after the other, and each error is fed back into the later columns
(steps/compensation.py). In the original order of the columns, salient weights and scales are chosen when the
loop reaches a group, on its weights after feedback, as in the public code. With `act_order` the strongest
inputs come first and the choices are made before the loop, which is better if few inputs dominate. Additions
to the paper: the eight-bit grid of a row contains zero, and `refit` fits scales and means again under the
second moment, in the rows where it helps.

The paper counts (1 - share) + 8 share bits per weight: 1.7 for a tenth. It leaves out the positions of the
salient weights, 0.47 bit for a tenth, and the scales, 16 bits per row and group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.numbers import NumberBits, Numbers, as_signs
from bivlm.formats.planes import PlanesWeight, planes_nbytes
from bivlm.quantizers.base import Damping, GradientPower, GroupSize, Quantizer, Weighting, in_range, moment_of
from bivlm.quantizers.steps.compensation import column_by_column, compensate, moment_factor, visiting_order
from bivlm.quantizers.steps.grid import grouped
from bivlm.quantizers.steps.refit import better_rows, refitted
from bivlm.quantizers.steps.sign_planes import plain_planes
from bivlm.types import LinearStats

# of the eight-bit grid's range: half a step at either end makes up for the rounding of step and zero to
# float16
STEPS = 254


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PBLLM(Quantizer):
    """Settings of PB-LLM.

    salient          share of the weights that are kept in eight bits
    saliency         the criterion: "magnitude", or "hessian", which needs calibration data
    group_size       columns that share a scale and a choice of salient weights; more than a row has means the
                     whole row
    mean             subtract the mean of the other weights before taking signs, and store it
    scale_bits       16, 32, or 8 with a 16-bit unit per row
    compensate       feed the error on through the second moment of the inputs; needs calibration data
    act_order        strongest inputs first, for `compensate`
    refit            least squares for scales and means at the end, for `compensate`
    damping          share of the mean diagonal added to the second moment
    block_size       columns between two error pushes with `act_order`; without it the group size is used
    modality_weight  how text and visual tokens share the second moment: "tokens", "balanced",
                     "gradient", or the visual tokens' share
    gradient_power   a token counts by this power of its squared output gradient; 0: all alike
    """

    name: ClassVar[str] = "pbllm"

    salient: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    saliency: Literal["magnitude", "hessian"] = "hessian"
    group_size: GroupSize = 128
    mean: bool = False
    scale_bits: NumberBits = 16
    compensate: bool = True
    act_order: bool = True
    refit: bool = True
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    modality_weight: Weighting = "tokens"
    gradient_power: GradientPower = 0.0

    @property
    def needs_data(self) -> bool:
        return self.compensate or self.saliency == "hessian"

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> PlanesWeight:
        w, exponent = in_range(weight)
        hessian = moment_of(stats, self.modality_weight) if self.needs_data else None
        group_size = min(self.group_size, w.shape[1])
        if hessian is None or not self.compensate:
            choice = self._choice(
                w,
                self._strength(hessian, torch.arange(w.shape[1], dtype=torch.int64, device="cpu")),
                group_size,
            )
            decided = _decided(choice, *_nearest(w, choice, group_size), group_size)
        else:
            decided = self._with_feedback(w, hessian, group_size)
            decided = _refitted(w, decided, hessian, self.scale_bits) if self.refit else decided
        return replace(decided, exponent=exponent)

    def _strength(self, hessian: Tensor | None, order: Tensor) -> Tensor:
        """(in,): the root of a weight's saliency, divided by its magnitude: 1 / U_jj, which is R_jj, for
        columns that are quantized in this order.
        """
        strength = torch.ones(len(order), dtype=torch.float32, device="cpu")
        if hessian is not None and self.saliency == "hessian":
            strength[order] = moment_factor(hessian[order][:, order], self.damping).diagonal()
        return strength

    def _choice(self, w: Tensor, strength: Tensor, group_size: int) -> _Choice:
        salient = torch.cat([self._salient(block) for block in (w.abs() * strength).split(group_size, 1)], 1)

        def means_of(values: Tensor) -> Numbers:
            return Numbers.of(values, self.scale_bits, signed=True)

        numbers = _numbers(
            w,
            salient,
            group_size,
            lambda values: Numbers.of(values, self.scale_bits),
            means_of if self.mean else None,
        )
        return _Choice(salient, *numbers, *_grid(w, salient))

    def _salient(self, saliency: Tensor) -> Tensor:
        """Which weights of a group (out, b) are salient; among equal weights the first."""
        count = _salient_count(saliency.shape[0], saliency.shape[1], self.salient)
        chosen = torch.zeros(saliency.numel(), dtype=torch.bool, device="cpu")
        chosen[saliency.reshape(-1).argsort(descending=True, stable=True)[:count]] = True
        return chosen.reshape(saliency.shape)

    def _with_feedback(self, w: Tensor, hessian: Tensor, group_size: int) -> PlanesWeight:
        order = visiting_order(hessian, self.act_order)
        in_turn = not self.act_order and group_size < w.shape[1]  # a single group is reached at the start
        strength = (
            torch.ones(w.shape[1], dtype=torch.float32, device="cpu")
            if in_turn
            else self._strength(hessian, order)
        )
        walk = _Walk(self._choice(w, strength, group_size), order, group_size)
        callback = column_by_column(walk.quantize_column)
        if not in_turn:
            compensate(
                w[:, order],
                hessian[order][:, order],
                callback,
                block_size=self.block_size,
                damping=self.damping,
            )
            return walk.decided()

        def quantize_group(block: Tensor, u: Tensor, start: int) -> Tensor:
            walk.choose_anew(
                block,
                self._salient(block.abs() / u.diagonal() if self.saliency == "hessian" else block.abs()),
                start,
            )
            return callback(block, u, start)

        compensate(w, hessian, quantize_group, block_size=group_size, damping=self.damping)
        return walk.decided()

    def bits_bound(self, shape: tuple[int, int]) -> float:
        rows, columns = shape
        group_size = min(self.group_size, columns)
        stored = planes_nbytes(
            shape,
            group_size=group_size,
            parts=1,
            salient_parts=0,
            salient_columns=0,
            means=self.mean,
            column_scales=False,
            scale_bits=self.scale_bits,
            tail=sum(
                _salient_count(rows, min(group_size, columns - start), self.salient)
                for start in range(0, columns, group_size)
            ),
        )
        return 8 * stored / (rows * columns)

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        assert isinstance(quantized, PlanesWeight)
        share = len(quantized.tail_positions) / quantized.signs.numel()
        return (1 - share) + 8 * share


class _Choice(NamedTuple):
    """The choices before rounding: `salient` (out, in) bool; scales and means (out, G, 1) of the
    others; the eight-bit grid of each row.
    """

    salient: Tensor
    scales: Numbers
    means: Numbers | None
    step: Tensor  # (out,) float16
    zero: Tensor  # (out,) float16, in codes


class _Walk:
    """The state of the feedback loop over the columns. All tensors are (in, out) or (G, out), so that a
    column is contiguous.
    """

    def __init__(self, choice: _Choice, order: Tensor, group_size: int) -> None:
        self.choice, self.order, self.group_size = choice, order, group_size
        self.salient = choice.salient.T.contiguous()
        self.scale = choice.scales.expand()[..., 0].T.contiguous()
        self.mean = (
            torch.zeros_like(self.scale)
            if choice.means is None
            else choice.means.expand()[..., 0].T.contiguous()
        )
        self.signs, self.codes = (
            torch.zeros_like(self.salient),
            torch.zeros(self.salient.shape, dtype=torch.uint8, device="cpu"),
        )
        self.step, self.zero = choice.step.float(), choice.zero.float()

    def quantize_column(self, column: Tensor, index: int) -> Tensor:
        j = int(self.order[index])
        mean, scale = self.mean[j // self.group_size], self.scale[j // self.group_size]
        self.signs[j] = column >= mean
        codes = _nearest_codes(column, self.step, self.zero)
        self.codes[j] = codes
        return torch.where(
            self.salient[j], self.step * (codes - self.zero), mean + torch.where(self.signs[j], scale, -scale)
        )

    def choose_anew(self, block: Tensor, salient: Tensor, start: int) -> None:
        """Salient weights, scale and mean of the group that begins at column `start`, from its weights (out,
        b) as they are now.
        """
        old = self.choice.means
        mean_of = None if old is None else lambda values: _rounded_like(values, old)
        scales, means = _numbers(
            block, salient, block.shape[1], lambda values: _rounded_like(values, self.choice.scales), mean_of
        )
        group = start // self.group_size
        self.salient[start : start + block.shape[1]] = salient.T
        self.scale[group] = scales.expand()[:, 0, 0]
        if means is not None:
            self.mean[group] = means.expand()[:, 0, 0]

    def decided(self) -> PlanesWeight:
        """The weight. Its numbers are rounded already, so rounding them again changes nothing."""
        scales = _rounded_like(self.scale.T[..., None], self.choice.scales)
        means = (
            None if self.choice.means is None else _rounded_like(self.mean.T[..., None], self.choice.means)
        )
        choice = self.choice._replace(salient=self.salient.T.contiguous(), scales=scales, means=means)
        return _decided(choice, self.signs.T, self.codes.T, self.group_size)


def _salient_count(rows: int, columns: int, share: float) -> int:
    """How many weights of a group are salient."""
    return round(share * rows * columns)


def _numbers(
    w: Tensor,
    salient: Tensor,
    group_size: int,
    scales_of: Callable[[Tensor], Numbers],
    means_of: Callable[[Tensor], Numbers] | None,
) -> tuple[Numbers, Numbers | None]:
    """Scales and means (out, G, 1) of the weights that are not salient, in their stored precision; the scales
    are computed with the stored means.
    """
    count = grouped((~salient).float(), group_size).sum(-1, keepdim=True).clamp_min(1.0)

    def average(values: Tensor) -> Tensor:
        return grouped(torch.where(salient, 0.0, values), group_size).sum(-1, keepdim=True) / count

    means = None if means_of is None else means_of(average(w))
    return scales_of(average((w - _spread(means, w, group_size)).abs())), means


def _spread(means: Numbers | None, w: Tensor, group_size: int) -> Tensor:
    """The mean of every weight of `w` (out, in); a zero if there are no means."""
    if means is None:
        return torch.zeros((), dtype=torch.float32, device="cpu")
    return means.expand()[:, torch.arange(w.shape[1], dtype=torch.int64, device="cpu") // group_size, 0]


def _rounded_like(values: Tensor, numbers: Numbers) -> Numbers:
    """`values` (out, g, 1) in the dtype, and the units, of `numbers`."""
    if not numbers.in_eight_bits:
        return Numbers(values.to(numbers.stored.dtype), numbers.unit)
    unit, most = numbers.unit.float()[:, None], torch.iinfo(numbers.stored.dtype).max
    codes = torch.where(unit > 0, values / unit, 0.0).round()
    return Numbers(
        codes.clamp(-most if numbers.stored.dtype == torch.int8 else 0, most).to(numbers.stored.dtype),
        numbers.unit,
    )


def _grid(w: Tensor, salient: Tensor) -> tuple[Tensor, Tensor]:
    """Step and zero (out,) float16 of the eight-bit grids: they hold zero and the row's salient weights."""
    kept = torch.where(salient, w, 0.0)
    low, high = kept.amin(1), kept.amax(1)
    step = ((high - low) / STEPS).half()
    return step, torch.where(step > 0, 0.5 - low / step.float(), 0.0).half()


def _nearest_codes(w: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """The nearest of the 256 codes, as float; the shapes broadcast."""
    return torch.where(step > 0, (w / step + zero).round(), 0.0).clamp(0, 255)


def _nearest(w: Tensor, choice: _Choice, group_size: int) -> tuple[Tensor, Tensor]:
    """Signs (out, in), and codes as if every weight were salient."""
    codes = _nearest_codes(w, choice.step.float()[:, None], choice.zero.float()[:, None])
    return w >= _spread(choice.means, w, group_size), codes.to(torch.uint8)


def _decided(choice: _Choice, signs: Tensor, codes: Tensor, group_size: int) -> PlanesWeight:
    """The weight (exponent 0) of signs and codes (out, in): codes for salient weights, signs for the
    others.
    """
    positions = choice.salient.reshape(-1).nonzero()[:, 0]
    tail = {
        "tail_positions": positions,
        "tail_codes": codes.reshape(-1)[positions],
        "tail_scale": choice.step if len(positions) else choice.step[:0],
        "tail_zero": choice.zero if len(positions) else choice.zero[:0],
    }
    return plain_planes(signs & ~choice.salient, choice.scales, choice.means, group_size, **tail)


def _refitted(w: Tensor, decided: PlanesWeight, hessian: Tensor, bits: NumberBits) -> PlanesWeight:
    """Scales and means by least squares under `hessian` with the salient weights unchanged, in the rows where
    it helps after rounding.
    """
    old, salient = decided.dequantize(), torch.zeros(w.shape, dtype=torch.bool, device="cpu")
    salient.view(-1)[decided.tail_positions] = True
    basis = torch.where(salient, 0.0, as_signs(decided.signs))[None]
    theta = decided.scales.expand()
    if decided.means is not None:
        theta, basis = (
            torch.cat([theta, decided.means.expand()], -1),
            torch.cat([basis, (~salient).float()[None]]),
        )
    better = refitted(torch.where(salient, w - old, w), theta, basis, hessian, decided.group_size)
    scales = Numbers.of(better[..., :1].clamp_min(0.0), bits)
    means = None if decided.means is None else Numbers.of(better[..., 1:], bits, signed=True)
    helps = better_rows(w, old, replace(decided, scales=scales, means=means).dequantize(), hessian)
    chosen_means = None if means is None or decided.means is None else _rows_of(helps, means, decided.means)
    return replace(decided, scales=_rows_of(helps, scales, decided.scales), means=chosen_means)


def _rows_of(chosen: Tensor, one: Numbers, other: Numbers) -> Numbers:
    """The rows of `one` where `chosen` (out,), else those of `other`, which has the same dtype."""
    unit = torch.where(chosen[:, None], one.unit, other.unit) if one.in_eight_bits else one.unit
    return Numbers(torch.where(chosen[:, None, None], one.stored, other.stored), unit)
