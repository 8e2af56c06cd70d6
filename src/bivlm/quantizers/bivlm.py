"""Bi-VLM: Gaussian-quantile bands with one bit and one scalar each, and a salient tail in two bits. A search
chooses the size of the tail.

Wang, Abdalla, Huang, Zhang, Xian, Manocha, arXiv 2509.18763. Per linear, from the weight alone:

    share of salient weights  = argmin J                             Eq. 20    steps/saliency_search.py
    cuts                      = Gaussian quantiles of the weights    Eq. 2-6   steps/gaussian_bands.py
    band k                    = sign(w) * mean |w| of the band       Eq. 15-19
    tail                      = row scale * one of four levels       Eq. 10-14 steps/salient.py

Exactly as in the paper: granularity "layer", salient_levels "paper", compensate False. Additions: cuts and
scalars per row or per group of columns, a fitted tail, and `compensate`. With `compensate` levels and tail
are chosen by the cost of errors, so a column with massive inputs is accurate even if its weights are small.
Columns are quantized one after the other to the nearest level with error feedback; then the levels are
refitted in closed form under the second moment of the inputs (steps/banded_with_data.py). In float16 a scalar
per row and band costs 16 * bands / width bits, which the true bits include.

The paper counts 1 + p + (16 N + 16 out) / (out in) bits (Eq. 24-26). It leaves out the band index of each
weight and the positions of the salient weights.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.levels import LevelsWeight, levels_nbytes
from bivlm.quantizers.base import Damping, GradientPower, Quantizer, Weighting, moment_of
from bivlm.quantizers.steps.banded import Banded
from bivlm.quantizers.steps.banded_with_data import banded_with_data
from bivlm.quantizers.steps.gaussian_bands import band_of, cuts
from bivlm.quantizers.steps.grid import grouped
from bivlm.quantizers.steps.saliency_search import SaliencyObjective, best_salient_share
from bivlm.quantizers.steps.salient import SalientLevels, Tail, fit_tail
from bivlm.types import LinearStats


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
    modality_weight how text and visual tokens share the second moment: "tokens", "balanced",
                    "gradient", or the visual tokens' share
    gradient_power  a token counts by this power of its squared output gradient; 0: all alike
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
    gradient_power: GradientPower = 0.0

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
        # a power of two: bfloat16 weights stay exact for the histogram
        largest = math.ldexp(1.0, min(math.frexp(largest)[1], 127))
        unit = w / largest  # keeps squares of very small and very large weights in range
        decided = self._without_data(unit)
        if hessian is not None:
            decided = banded_with_data(
                unit,
                decided,
                hessian,
                self._fit_tail,
                one_table=self.granularity == "layer",
                block_size=self.block_size,
                damping=self.damping,
            )
        return decided.to_levels(largest)

    def _without_data(self, w: Tensor) -> Banded:
        columns = self.group_size if self.granularity == "group" else w.shape[1]
        scope = grouped(w, columns, fill=torch.nan) if self.granularity != "layer" else w.reshape(1, 1, -1)
        mean, std = _symmetric_moments(scope) if self.granularity != "layer" else _moments(scope)
        objective_weight = w
        if self.granularity != "layer":
            # one search for the layer, with every row or group in units of its own deviation
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
        tail = self._fit_tail(rows, w.reshape(-1)[positions].double(), w.shape[0])
        return Banded(
            _codes(w, band.clamp_max(self.bands - 1), self.bands, salient), levels, columns, positions, tail
        )

    def _fit_tail(self, rows: Tensor, values: Tensor, out: int, costs: Tensor | None = None) -> Tail:
        return fit_tail(
            rows, values, out, self.salient_levels, rounds=self.rounds, alpha=self.alpha, costs=costs
        )

    def _zeros(self, w: Tensor) -> LevelsWeight:
        columns = self.group_size if self.granularity == "group" else w.shape[1]
        tables = (1 if self.granularity == "layer" else w.shape[0], -(-w.shape[1] // columns), self.bands)
        nothing = fit_tail(
            torch.zeros(0, dtype=torch.int64, device="cpu"),
            torch.zeros(0, dtype=torch.float64, device="cpu"),
            w.shape[0],
            "lloyd",
            rounds=1,
            alpha=1.0,
        )
        codes = torch.full(w.shape, self.bands, dtype=torch.uint8, device="cpu")
        return Banded(
            codes,
            torch.zeros(tables, dtype=torch.float32, device="cpu"),
            columns,
            torch.zeros(0, dtype=torch.int64, device="cpu"),
            nothing,
        ).to_levels(1.0)

    def bits_bound(self, shape: tuple[int, int]) -> float:
        """Bound for Gaussian weights. A weight with heavier tails has more entries beyond the cut than the
        nominal share, and all of them are kept.
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


def _ungrouped(grouped: Tensor, shape: torch.Size) -> Tensor:
    return (
        grouped.reshape(shape)
        if grouped.numel() == shape.numel()
        else grouped.reshape(shape[0], -1)[:, : shape[1]].contiguous()
    )


def _moments(w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the last axis, float64: the Gaussian of a whole layer, as in the
    paper.
    """
    return w.mean(-1).double(), w.std(-1, correction=0).double()


def _symmetric_moments(scope: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 0 and root mean square over the last axis, NaN left out, float64.

    The mean of a few weights is noise, and a mean below 0 lowers every cut of |w|. A row of one weight, or of
    equal weights, would then fall into the tail merely because of its sign.
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
