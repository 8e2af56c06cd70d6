"""What an analysis finds: every linear's numbers, and the linears of a part together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bivlm.quantizers.steps.salient import SalientLevels
from bivlm.studies.analyze.weight import (
    BANDS,
    BIN_WIDTH,
    BINS,
    OUTLIERS,
    RANGE,
    TAIL_RULES,
    SaliencyCurve,
    WeightStatistics,
    pooled_outliers,
    saliency_shares,
)
from bivlm.types import PARTS, PartName


@dataclass(frozen=True)
class LinearAnalysis:
    """One linear. `depth` counts the blocks of its part; `kind` is its name within a block, as short as tells
    it from the others of its part.
    """

    name: str
    part: PartName
    depth: int
    kind: str
    shape: tuple[int, int]
    statistics: WeightStatistics
    salient_max: float
    saliency: tuple[SaliencyCurve, ...]

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1]

    def curve(self, bands: int, levels: SalientLevels) -> SaliencyCurve:
        return next(curve for curve in self.saliency if (curve.bands, curve.levels) == (bands, levels))


@dataclass(frozen=True)
class SaliencySummary:
    """Medians over the linears of a part: J without a tail, the share where J is lowest, and the gain there,
    1 - J / J(0).
    """

    bands: int
    levels: SalientLevels
    error: float
    best_share: float
    gain: float


@dataclass(frozen=True)
class PartSummary:
    """The linears of a part together. `kl` and `kurtosis` are medians, outliers shares of all weights; None
    where every weight is one number.
    """

    part: PartName
    linears: int
    weights: int
    salient_max: float
    kl: float | None
    largest_kl: float | None
    kurtosis: float | None
    outliers: tuple[float, ...] | None
    largest: float | None
    saliency: tuple[SaliencySummary, ...]


@dataclass(frozen=True)
class Analysis:
    """Every linear that would be packed, in the order in which the model runs them, and how this was made."""

    model: str
    linears: tuple[LinearAnalysis, ...]
    seconds: float
    machine: str
    command: str

    @property
    def parts(self) -> tuple[PartSummary, ...]:
        return tuple(_summary(part, self.of_part(part)) for part in PARTS if self.of_part(part))

    def of_part(self, part: PartName) -> tuple[LinearAnalysis, ...]:
        return tuple(linear for linear in self.linears if linear.part == part)

    def least_gaussian(self, count: int) -> list[LinearAnalysis]:
        """The linears of the largest divergences, the largest first."""
        told = [linear for linear in self.linears if linear.statistics.kl is not None]
        return sorted(told, key=lambda linear: -(linear.statistics.kl or 0.0))[:count]

    def to_dict(self) -> dict[str, Any]:
        parts, linears = [asdict(part) for part in self.parts], [asdict(linear) for linear in self.linears]
        for entry in (*parts, *linears):
            entry["salient_shares"] = saliency_shares(entry["salient_max"])
        return {
            "model": self.model,
            "histogram_bins": {
                "range": RANGE,
                "width": BIN_WIDTH,
                "count": BINS + 2,
            },
            "outliers_beyond": OUTLIERS,
            "parts": parts,
            "linears": linears,
            "seconds": self.seconds,
            "machine": self.machine,
            "command": self.command,
        }


def _summary(part: PartName, linears: tuple[LinearAnalysis, ...]) -> PartSummary:
    told = [linear.statistics for linear in linears if linear.statistics.kl is not None]
    divergences = [found.kl or 0.0 for found in told]
    saliency = []
    for levels in TAIL_RULES:
        for bands in BANDS:
            curves = [linear.curve(bands, levels) for linear in linears]
            gains = [1 - curve.best_error / curve.errors[0] for curve in curves if curve.errors[0] > 0]
            best = median(curve.best_share for curve in curves)
            saliency.append(
                SaliencySummary(
                    bands,
                    levels,
                    median(curve.errors[0] for curve in curves),
                    best,
                    median(gains) if gains else 0.0,
                )
            )
    return PartSummary(
        part,
        len(linears),
        sum(linear.weights for linear in linears),
        linears[0].salient_max,
        kl=median(divergences) if told else None,
        largest_kl=max(divergences, default=None),
        kurtosis=median(found.kurtosis or 0.0 for found in told) if told else None,
        outliers=pooled_outliers(told),
        largest=max((found.largest or 0.0 for found in told), default=None),
        saliency=tuple(saliency),
    )
