"""Does a model know when it is wrong? The confidence of its answers, and what it says about their scores.

The confidence of an answer comes from the probabilities of its tokens, the end of the answer among them:
their product (the model's probability of this very answer), their mean, or that of the first token. With
confidences c and scores s of n questions:

    ECE       Σ over bins (n_b / n) |mean s - mean c|, 15 bins of equal mass (Naeini et al. 2015; Nguyen and
              O'Connor 2015); questions of the same confidence are in the same bin
    Brier     mean (c - s)² (Brier 1950)
    AURC      area under the risk-coverage curve: mean over k of the mean 1 - s of the k most confident
              answers (Geifman et al. 2019); answers of the same confidence come in no order: each counts as
              their mean
    AUROC     how often a right answer (s ≥ 0.5) is more confident than a wrong one, ties as half
    ProbVLM   over 10 bins of equal mass by uncertainty 1 - c: Spearman's correlation of the bins' mean
              uncertainty and mean error, and R² of a line through them (Upadhyay et al., "ProbVLM", 2023,
              which has recall in place of the error); 1 is best for both

A number that is not defined (all answers right, all of one confidence) is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from bivlm.eval.statistics.means import finite

BINS = 15
UNCERTAINTY_BINS = 10
RIGHT = 0.5  # scores from here on count as right where only right and wrong are known


@dataclass(frozen=True)
class AnswerConfidence:
    """Probabilities of an answer: of all its tokens together, their mean, and that of the first one."""

    whole: float
    mean: float
    first: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The questions of a bin: how many, their mean confidence and their mean score."""

    n: int
    confidence: float
    score: float


@dataclass(frozen=True)
class Calibration:
    """What confidence says about the scores of `n` questions; the module says how each number is defined.
    `bins` are those of the expected calibration error, by rising confidence.
    """

    n: int
    ece: float
    brier: float
    aurc: float
    auroc: float | None
    uncertainty_correlation: float | None
    uncertainty_r2: float | None
    bins: tuple[ReliabilityBin, ...]


def answer_confidences(log_probabilities: Tensor, mask: Tensor) -> list[AnswerConfidence | None]:
    """The confidence of every answer from the logarithms of its tokens' probabilities, (n, a), where `mask`
    (n, a) is True; None where one of them is not finite.
    """
    found: list[AnswerConfidence | None] = []
    for row, kept in zip(log_probabilities.double().cpu(), mask.cpu(), strict=True):
        chosen = row[kept]
        usable = len(chosen) > 0 and bool(chosen.isfinite().all())
        found.append(
            AnswerConfidence(chosen.sum().exp().item(), chosen.exp().mean().item(), chosen[0].exp().item())
            if usable
            else None
        )
    return found


def calibration(confidences: Sequence[float], scores: Sequence[float]) -> Calibration:
    """What the confidences, 0…1, say about the scores, 0…1, of the same questions. Raises ValueError without
    questions, and for a number that is not finite.
    """
    c, s = finite(confidences), finite(scores)
    if len(c) != len(s):
        raise ValueError(f"{len(c)} confidences and {len(s)} scores are no pairs")
    bins = _bins(c, s, BINS)
    correlation, r2 = _uncertainty(c, s)
    return Calibration(
        n=len(c),
        ece=sum(found.n / len(c) * abs(found.score - found.confidence) for found in bins),
        brier=float(((c - s) ** 2).mean()),
        aurc=_aurc(c, s),
        auroc=_auroc(c, s >= RIGHT),
        uncertainty_correlation=correlation,
        uncertainty_r2=r2,
        bins=bins,
    )


def uncertainty_over_bins(
    uncertainties: Sequence[float], scores: Sequence[float]
) -> tuple[float | None, float | None]:
    """Spearman's correlation and R² of ProbVLM, for uncertainties of any size and scores in 0…1. Both are
    None where all scores, or all uncertainties, are alike. Raises ValueError as `calibration` does.
    """
    u, s = finite(uncertainties), finite(scores)
    if len(u) != len(s):
        raise ValueError(f"{len(u)} uncertainties and {len(s)} scores are no pairs")
    return _uncertainty(1.0 - u, s)


def _bins(c: NDArray[np.float64], s: NDArray[np.float64], count: int) -> tuple[ReliabilityBin, ...]:
    """Bins of equal mass by rising confidence; ties share the bin of their mean rank, and empty bins are
    left out.
    """
    ranks = stats.rankdata(c, method="average")
    numbers = ((ranks - 0.5) * min(count, len(c)) / len(c)).astype(np.intp)
    chosen = [numbers == number for number in np.unique(numbers)]
    return tuple(
        ReliabilityBin(int(these.sum()), float(c[these].mean()), float(s[these].mean())) for these in chosen
    )


def _aurc(c: NDArray[np.float64], s: NDArray[np.float64]) -> float:
    _, place, sizes = np.unique(-c, return_inverse=True, return_counts=True)
    tied = np.bincount(place, weights=1.0 - s) / sizes
    errors = np.repeat(tied, sizes)
    return float((errors.cumsum() / np.arange(1, len(errors) + 1)).mean())


def _auroc(c: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    if right.all() or not right.any():
        return None
    return float(stats.mannwhitneyu(c[right], c[~right]).statistic / (right.sum() * (~right).sum()))


def _uncertainty(c: NDArray[np.float64], s: NDArray[np.float64]) -> tuple[float | None, float | None]:
    bins = _bins(c, s, UNCERTAINTY_BINS)
    uncertainty, error = ([1.0 - getattr(found, name) for found in bins] for name in ("confidence", "score"))
    if len(bins) < 2 or np.ptp(error) == 0 or np.ptp(uncertainty) == 0:
        return None, None
    ranked: Any = stats.spearmanr(uncertainty, error)
    return float(ranked.statistic), float(np.corrcoef(uncertainty, error)[0, 1] ** 2)
