"""Bi-VLM: Gaussian-quantile bands with one bit and one scalar each, and a salient tail in two bits whose size
a search decides.

Wang, Abdalla, Huang, Zhang, Xian, Manocha, arXiv 2509.18763. Per linear, from the weight alone:

    share of salient weights  = argmin J                             Eq. 20    steps/saliency_search.py
    cuts                      = Gaussian quantiles of the weights    Eq. 2-6   steps/gaussian_bands.py
    band k                    = sign(w) * mean |w| of the band       Eq. 15-19
    tail                      = row scale * one of four levels       Eq. 10-14 steps/salient.py

To the letter: granularity "layer", salient_levels "paper", compensate False. Beyond it: cuts and scalars per
row or per group of columns, a fitted tail, and `compensate`: levels and tail are chosen by what errors cost
(a column with massive inputs is kept well, however small its weights), columns are quantized one after the
other to the nearest level with the error fed on (steps/compensation.py), then the levels are refitted in closed
form under the second moment of the inputs. In float16 a scalar per row and band costs 16 * bands / width
bits; the count is true.

The paper counts 1 + p + (16 N + 16 out) / (out in) bits (Eq. 24-26): it leaves out which band a weight is in,
and where the salient weights are.
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
from bivlm.formats.levels import LevelsWeight, levels_nbytes
from bivlm.quantizers.base import Damping, Quantizer, Weighting, moment_of
from bivlm.quantizers.steps.compensation import column_by_column, compensate, visiting_order
from bivlm.quantizers.steps.gaussian_bands import band_of, cuts
from bivlm.quantizers.steps.grid import grouped
from bivlm.quantizers.steps.saliency_search import SaliencyObjective, best_salient_share
from bivlm.quantizers.steps.salient import SalientLevels, Tail, fit_tail
from bivlm.types import LinearStats

# float16 ends at 65504: the tail may be this many times the largest band level before that level loses
# precision
TAIL_RANGE = 32768.0
LEVEL_ROUNDS = 6  # of the weighted fit of the band levels
REFIT_NUMBERS = (
    1 << 25
)  # float32 numbers of rows * unknowns * columns at a time in the refit of the levels: 128 MiB


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BiVLM(Quantizer):
    """Settings of Bi-VLM.

    bands           magnitude bands outside of the tail, N: a weight takes one of 2N values there
    salient_max     largest share of salient weights that the search may choose (paper: 0.05 in the vision
                    tower, 0.01 in the language model)
    salient_levels  how the tail's four levels are found: "paper" or "lloyd"
    rounds          rounds of that fit (the paper does not say how many)
    alpha           the constant of Eq. 14, for "paper"
    granularity     one set of cuts and scalars per "layer" (paper), "row", or "group" of `group_size` columns
                    of a row
    compensate      feed the error on through the second moment of the inputs; needs calibration data
    damping         share of the mean diagonal added to the second moment, for `compensate`
    block_size      columns between two error pushes, for `compensate`
    modality_weight how text and visual tokens share the second moment: "tokens", "balanced", or the visual
    tokens' share
    """

    name: ClassVar[str] = "bivlm"

    bands: Annotated[int, Field(ge=1, le=8)] = 2
    salient_max: Annotated[float, Field(ge=0.0, le=0.5)] = 0.01
    salient_levels: SalientLevels = "lloyd"
    rounds: Annotated[int, Field(ge=1, le=1000)] = 10
    alpha: Annotated[float, Field(gt=0.0)] = 1.4
    granularity: Literal["layer", "row", "group"] = "layer"
    group_size: Annotated[int, Field(ge=1)] = 128
    compensate: bool = False
    damping: Damping = 0.01
    block_size: Annotated[int, Field(ge=1)] = 128
    modality_weight: Weighting = "tokens"

    @property
    def needs_data(self) -> bool:
        return self.compensate

    def quantize(self, weight: Tensor, stats: LinearStats | None) -> LevelsWeight:
        w = weight.detach().float()
        if not bool(w.isfinite().all()):
            raise ValueError("the weight holds NaN or infinity")
        hessian = moment_of(stats, self.modality_weight) if self.compensate else None
        largest = float(w.abs().max())
        if largest == 0:
            return self._zeros(w)
        largest = math.ldexp(
            1.0, min(math.frexp(largest)[1], 127)
        )  # a power of two: bfloat16 weights stay exact for the histogram
        unit = w / largest  # keeps squares of very small and very large weights in range
        decided = self._without_data(unit)
        if hessian is not None:
            decided = self._with_data(unit, decided, hessian)
        return decided.to_levels(largest)

    def _without_data(self, w: Tensor) -> _Decision:
        columns = self.group_size if self.granularity == "group" else w.shape[1]
        scope = grouped(w, columns, fill=torch.nan) if self.granularity != "layer" else w.reshape(1, 1, -1)
        mean, std = _symmetric_moments(scope) if self.granularity != "layer" else _moments(scope)
        objective_weight = w
        if (
            self.granularity != "layer"
        ):  # one search for the layer, with every row or group in units of its own deviation
            per_weight = torch.where(std > 0, std, 1.0).float()[..., None]
            objective_weight = torch.where(scope.isnan(), 0.0, scope / per_weight).reshape(w.shape[0], -1)[
                :, : w.shape[1]
            ]
        objective = SaliencyObjective(
            objective_weight,
            self.bands,
            self.salient_max,
            self.salient_levels,
            rounds=self.rounds,
            alpha=self.alpha,
        )
        edges = cuts(self.bands, best_salient_share(objective, self.salient_max), mean, std).float()
        band = band_of(scope.abs(), edges[..., None, :])
        levels = _band_means(scope.abs(), band, edges)
        band = _ungrouped(band, w.shape)
        salient = band == self.bands
        positions = salient.reshape(-1).nonzero()[:, 0]
        rows = positions // w.shape[1]
        tail = fit_tail(
            rows,
            w.reshape(-1)[positions].double(),
            w.shape[0],
            self.salient_levels,
            rounds=self.rounds,
            alpha=self.alpha,
        )
        return _Decision(
            _codes(w, band.clamp_max(self.bands - 1), self.bands, salient), levels, columns, positions, tail
        )

    def _with_data(self, w: Tensor, start: _Decision, hessian: Tensor) -> _Decision:
        """Levels and tail where errors cost most; nearest levels with error feedback, strongest inputs first;
        then the levels' closed-form refit.
        """
        order = visiting_order(hessian, act_order=True)
        start = self._by_cost(w, start, hessian.diagonal().clamp_min(0.0))
        tables = start.signed_levels().expand(w.shape[0], -1, -1)
        salient = _mask_of(start.positions, w.shape)
        tail_table = (start.tail.scale[:, None] * start.tail.levels).float()
        codes, tail_codes = torch.zeros(w.shape, dtype=torch.uint8), torch.zeros(w.shape, dtype=torch.uint8)

        def quantize_column(column: Tensor, index: int) -> Tensor:
            j = int(order[index])
            value, codes[:, j] = _nearest_in(column, tables[:, j // start.group_size])
            if bool(salient[:, j].any()):
                tail_value, tail_codes[:, j] = _nearest_in(column, tail_table)
                value = torch.where(salient[:, j], tail_value, value)
            return value

        callback = column_by_column(quantize_column)
        compensate(
            w[:, order], hessian[order][:, order], callback, block_size=self.block_size, damping=self.damping
        )
        codes = torch.where(salient, 0, codes).to(torch.uint8)
        tail = replace(start.tail, codes=tail_codes.reshape(-1)[start.positions])
        fed = _Decision(codes, start.levels, start.group_size, start.positions, tail)
        return fed.refitted(w, salient, hessian, self.damping)

    def _by_cost(self, w: Tensor, start: _Decision, costs: Tensor) -> _Decision:
        """Levels refitted with `costs` (in,), what the columns receive; as many salient weights as before,
        now those whose rounding costs most.
        """
        costs = costs / costs.mean()
        whole = self.granularity == "layer"

        def scope(values: Tensor) -> Tensor:
            return values.reshape(1, 1, -1) if whole else grouped(values, start.group_size)

        magnitude, levels, count = scope(w.abs()), start.levels, len(start.positions)
        salient = _mask_of(start.positions, w.shape)
        for turn in range(3 if count else 1):
            levels = _weighted_levels(magnitude, scope(costs * ~salient), levels)
            if turn < 2:
                nearest = levels.expand(magnitude.shape[0], -1, -1).gather(
                    -1, _nearest_level(magnitude, levels)
                )
                lost = (magnitude - nearest).square().reshape(w.shape[0], -1)[:, : w.shape[1]] * costs
                salient = _mask_of(_costliest(lost, count), w.shape)
        positions = salient.reshape(-1).nonzero()[:, 0]
        rows, values = positions // w.shape[1], w.reshape(-1)[positions].double()
        entry_costs = costs.double()[positions % w.shape[1]]
        tail = fit_tail(
            rows,
            values,
            w.shape[0],
            self.salient_levels,
            rounds=self.rounds,
            alpha=self.alpha,
            costs=entry_costs,
        )
        return _Decision(start.codes, levels, start.group_size, positions, tail)

    def _zeros(self, w: Tensor) -> LevelsWeight:
        columns = self.group_size if self.granularity == "group" else w.shape[1]
        tables = (1 if self.granularity == "layer" else w.shape[0], -(-w.shape[1] // columns), self.bands)
        nothing = fit_tail(
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.float64),
            w.shape[0],
            "lloyd",
            rounds=1,
            alpha=1.0,
        )
        codes = torch.full(w.shape, self.bands, dtype=torch.uint8)
        return _Decision(
            codes, torch.zeros(tables), columns, torch.zeros(0, dtype=torch.int64), nothing
        ).to_levels(1.0)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        """Bound for weights that are Gaussian: one with heavier tails has more weights beyond the cut than
        its nominal share, and all are kept.
        """
        rows, columns = shape
        group_size = min(self.group_size, columns) if self.granularity == "group" else columns
        expected = self.salient_max * rows * columns
        tail = min(rows * columns, int(expected + 6 * expected**0.5) + 1) if self.salient_max else 0
        tables = 1 if self.granularity == "layer" else rows
        stored = levels_nbytes(
            shape,
            alphabet=2 * self.bands,
            symmetric=True,
            group_size=group_size,
            rows_of_tables=tables,
            tail=tail,
        )
        return 8 * stored / (rows * columns)

    def paper_bits(self, quantized: QuantizedWeight) -> float | None:
        assert isinstance(quantized, LevelsWeight)
        rows, columns = quantized.shape
        salient = len(quantized.tail_positions) / (rows * columns)
        return 1.0 + salient + (16 * self.bands + 16 * rows) / (rows * columns)


class _Decision:
    """Codes, band levels and tail of a weight in units of its largest magnitude. `levels` is (R, G, bands);
    codes under the tail are 0.
    """

    def __init__(self, codes: Tensor, levels: Tensor, group_size: int, positions: Tensor, tail: Tail) -> None:
        self.codes, self.levels, self.group_size, self.positions, self.tail = (
            codes,
            levels,
            group_size,
            positions,
            tail,
        )

    @property
    def bands(self) -> int:
        return self.levels.shape[-1]

    def signed_levels(self) -> Tensor:
        """(R, G, 2 bands), ascending: the value of each code."""
        return torch.cat([-self.levels.flip(-1), self.levels], dim=-1)

    def refitted(self, w: Tensor, salient: Tensor, hessian: Tensor, damping: float) -> _Decision:
        """Levels (and per-row tail scales) that minimise tr((W-Q) H (W-Q)ᵀ) with the codes as they are; kept
        only if they lower it.

        Per row the unknowns are the groups' levels and the tail's scale: a small linear system. Levels shared
        by all rows add their systems up.
        """
        damped = hessian + damping * hessian.diagonal().mean() * 0.01 * torch.eye(w.shape[1])
        band = torch.where(
            self.codes >= self.bands, self.codes.int() - self.bands, self.bands - 1 - self.codes.int()
        )
        sign = torch.where(self.codes >= self.bands, 1.0, -1.0) * ~salient
        target = w.clone(memory_format=torch.contiguous_format)
        target.view(-1)[self.positions] -= self.tail.values(self.positions // w.shape[1]).float()
        unknowns = self.levels.shape[1] * self.bands
        rows = max(1, REFIT_NUMBERS // (unknowns * w.shape[1]))
        blocks = zip(band.split(rows), sign.split(rows), target.split(rows), strict=True)
        systems = (self._normal_equations(*block, damped) for block in blocks)
        if self.levels.shape[0] == 1:
            normals, rights = zip(
                *((normal.sum(0, keepdim=True), right.sum(0, keepdim=True)) for normal, right in systems),
                strict=True,
            )
            systems = [(torch.stack(normals).sum(0), torch.stack(rights).sum(0))]
        solved = (
            torch.cat([_solved(normal, right) for normal, right in systems])
            .float()
            .reshape(self.levels.shape)
        )
        better = solved.clamp_min(0.0).cummax(dim=-1).values
        refit = _Decision(self.codes, better, self.group_size, self.positions, self.tail)
        return min((self, refit), key=lambda decision: decision.loss(w, hessian))

    def _normal_equations(
        self, band: Tensor, sign: Tensor, target: Tensor, hessian: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(rows, U, U) and (rows, U) float64 of some rows, U = groups * bands: an unknown is one in its own
        group's columns alone.
        """
        groups = [slice(start, start + self.group_size) for start in range(0, band.shape[1], self.group_size)]
        patterns = [
            torch.stack(
                [torch.where(band[:, group] == k, sign[:, group], 0.0) for k in range(self.bands)], dim=1
            )
            for group in groups
        ]
        weighted = torch.cat(
            [pattern @ hessian[group] for pattern, group in zip(patterns, groups, strict=True)], dim=1
        )  # (rows, U, in)
        normal = torch.cat(
            [weighted[:, :, group] @ pattern.mT for pattern, group in zip(patterns, groups, strict=True)],
            dim=-1,
        )
        return normal.double(), (weighted @ target[..., None])[..., 0].double()

    def loss(self, w: Tensor, hessian: Tensor) -> float:
        difference = w - self.to_levels(1.0).dequantize()
        return float(((difference @ hessian) * difference).sum())

    def to_levels(self, largest: float) -> LevelsWeight:
        """In the format: float16 tables relative to one float32 scale."""
        tail_largest = (
            float(self.tail.scale.max() * self.tail.levels.abs().max()) if len(self.positions) else 0.0
        )
        unit = max(float(self.levels.max()), tail_largest / TAIL_RANGE)
        unit = unit if unit > 0 else 1.0
        level_unit = float(self.tail.levels.abs().max()) or 1.0
        has_tail = len(self.positions) > 0
        return LevelsWeight(
            codes=self.codes,
            levels=(self.levels / unit).half(),
            scale=torch.tensor(max(unit * largest, torch.finfo(torch.float32).tiny), dtype=torch.float32),
            alphabet=2 * self.bands,
            symmetric=True,
            group_size=self.group_size if self.levels.shape[1] > 1 else self.codes.shape[1],
            tail_positions=self.positions,
            tail_codes=self.tail.codes,
            tail_levels=(self.tail.levels / level_unit).half(),
            tail_scale=(
                (self.tail.scale * level_unit / unit).half()
                if has_tail
                else torch.zeros(0, dtype=torch.float16)
            ),
        )


def _mask_of(positions: Tensor, shape: torch.Size) -> Tensor:
    """(out, in) bool, True at the row-major `positions`."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[positions] = True
    return mask


def _costliest(lost: Tensor, count: int) -> Tensor:
    """Row-major positions of the `count` largest of `lost` (out, in): as many in every row, or anywhere where
    that is less than one.
    """
    rows, columns = lost.shape
    each = count // rows
    if each == 0:
        return lost.reshape(-1).topk(count).indices
    return (lost.topk(each, dim=1).indices + columns * torch.arange(rows)[:, None]).reshape(-1)


def _nearest_level(magnitude: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest of the ascending `levels` (R, G, N) for each magnitude (R, G, n)."""
    return torch.searchsorted(((levels[..., 1:] + levels[..., :-1]) / 2).contiguous(), magnitude.contiguous())


def _weighted_levels(magnitude: Tensor, weight: Tensor, levels: Tensor) -> Tensor:
    """Band levels (R, G, N), ascending, by Lloyd's algorithm from `levels`, every magnitude (R, G, n)
    counting with its `weight`.
    """
    for _ in range(LEVEL_ROUNDS):
        nearest = _nearest_level(magnitude, levels)
        mass = torch.zeros_like(levels).scatter_add_(-1, nearest, weight)
        moment = torch.zeros_like(levels).scatter_add_(-1, nearest, weight * magnitude)
        levels = torch.where(mass > 0, moment / mass.clamp_min(1e-30), levels).sort(-1).values
    return levels


def _solved(normal: Tensor, right: Tensor) -> Tensor:
    """Solutions (…, U) of the systems; an unknown that no weight uses is 0."""
    damped = normal.clone()
    damped.diagonal(dim1=1, dim2=2).add_(1e-8 * normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-30)
    return torch.linalg.solve(damped, right)


def _ungrouped(grouped: Tensor, shape: torch.Size) -> Tensor:
    return (
        grouped.reshape(shape)
        if grouped.numel() == shape.numel()
        else grouped.reshape(shape[0], -1)[:, : shape[1]].contiguous()
    )


def _moments(w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the last axis, float64: the Gaussian of a whole layer, to the
    letter.
    """
    return w.mean(-1).double(), w.std(-1, correction=0).double()


def _symmetric_moments(scope: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 0 and root mean square over the last axis, NaN left out, float64.

    The mean of a few weights is chance, and below 0 it lowers every cut of |w|: a row of one weight, or of
    equal ones, would be tail for its sign.
    """
    spread = scope.square().nanmean(-1).sqrt().double()
    return torch.zeros_like(spread), spread


def _band_means(magnitude: Tensor, band: Tensor, edges: Tensor) -> Tensor:
    """Mean |w| of every band (…, bands), ascending; an empty band takes the level below it."""
    means = []
    for k in range(edges.shape[-1]):
        inside = (band == k) & ~magnitude.isnan()
        means.append(torch.where(inside, magnitude, 0.0).sum(-1) / inside.sum(-1).clamp_min(1))
    return torch.stack(means, dim=-1).cummax(dim=-1).values


def _codes(w: Tensor, band: Tensor, bands: int, salient: Tensor) -> Tensor:
    """Signed level index: bands + k for +level k, bands - 1 - k for -level k; 0 under the tail. sign(0) is
    +.
    """
    return torch.where(salient, 0, torch.where(w >= 0, bands + band, bands - 1 - band)).to(torch.uint8)


def _nearest_in(column: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest level and its code for each entry of a column (out,), from ascending tables (out, L)."""
    code = (column[:, None] > (table[:, 1:] + table[:, :-1]) / 2).sum(-1)
    return table.gather(1, code[:, None])[:, 0], code.to(torch.uint8)
