"""The statistics of one weight: its distance from a Gaussian, its outliers, and the gain by a salient tail.

With the n entries w of a weight, their mean m and standard deviation s (over all n) and z = (w - m) / s:

    histogram        counts of z in BINS + 2 bins: what lies below -RANGE, then BINS bins of width BIN_WIDTH
                     with their lower edges over [-RANGE, RANGE), then what lies at RANGE or above
    kl               KL(P || Q) = sum of P_i ln(P_i / Q_i) in nats over these BINS + 2 bins, P_i = count_i /
                     n, Q_i what the standard normal distribution has there; an empty bin adds 0. Of a
                     Gaussian weight in bfloat16 its steps alone give about 1e-5
    kl_by_chance     what n draws from a Gaussian have on average: the sum over the bins of E[k ln(k / n Q_i)]
                     / n for Poisson counts k of mean n Q_i, less 3 / 2n because the counts add up to n and
                     two moments are fitted
    kurtosis         mean of z⁴, less 3: 0 for a Gaussian, 3 for a Laplace distribution
    outliers         the shares of entries with |z| > 3, 4 and 6; `largest` is the greatest |z|

and J(p), the error of bands and tail over ||W||² at a salient share p (Bi-VLM, arXiv 2509.18763, Eq. 20), as
`saliency_search.py` computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln, ndtr, xlogy
from torch import Tensor

from bivlm.quantizers.steps.gaussian_bands import cuts
from bivlm.quantizers.steps.saliency_search import SaliencyObjective
from bivlm.quantizers.steps.salient import SalientLevels

RANGE, BIN_WIDTH = 8.0, 0.25
BINS = round(2 * RANGE / BIN_WIDTH)
OUTLIERS = (3.0, 4.0, 6.0)  # in standard deviations
BANDS = (1, 2, 5)
TAIL_RULES: tuple[SalientLevels, ...] = ("paper", "lloyd")  # how the levels of the salient tail are found
STEPS = 20  # of p between 0 and its largest value
MANY = 50.0  # draws in a bin beyond which its part of `kl_by_chance` is an expansion
PIECE = 1 << 16  # entries that are looked at in float64 at a time: they stay in the processor's cache


@dataclass(frozen=True)
class WeightStatistics:
    """The numbers of one weight. If all entries are equal there is no z, and all numbers except `mean` and
    `std` are None.
    """

    mean: float
    std: float
    kurtosis: float | None = None
    kl: float | None = None
    kl_by_chance: float | None = None
    outliers: tuple[float, ...] | None = None
    largest: float | None = None
    histogram: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SaliencyCurve:
    """J at the shares p of `saliency_shares`, for a number of bands and a way to find the tail's levels; and
    the share where J is lowest of these.
    """

    bands: int
    levels: SalientLevels
    errors: tuple[float, ...]
    best_share: float
    best_error: float


def bin_edges() -> np.ndarray:
    """The BINS + 1 finite edges, in standard deviations."""
    return np.linspace(-RANGE, RANGE, BINS + 1)


def gaussian_shares() -> np.ndarray:
    """The probabilities of the BINS + 2 bins under the standard normal distribution; the upper half mirrors
    the lower one, so no tail is lost to rounding.
    """
    left = np.diff(ndtr(np.concatenate([[-np.inf], bin_edges()[: BINS // 2 + 1]])))
    return np.concatenate([left, left[::-1]])


def gaussian_outliers() -> tuple[float, ...]:
    """The shares that a Gaussian has beyond OUTLIERS."""
    return tuple(float(2 * ndtr(-limit)) for limit in OUTLIERS)


def divergence_from_gaussian(histogram: Sequence[int]) -> float:
    """KL(P || Q) in nats of a histogram of z from the standard normal distribution, as defined above."""
    share = np.asarray(histogram, dtype=np.float64) / sum(histogram)
    filled = share > 0
    return float(np.sum(share[filled] * np.log(share[filled] / gaussian_shares()[filled])))


def divergence_by_chance(count: int) -> float:
    """The divergence that so many draws from a Gaussian have on average, as described above."""
    expected = count * gaussian_shares()
    few = expected < MANY
    draws = np.arange(1.0, 4 * MANY)
    log_ratio = np.log(draws[:, None] / expected[None, few])
    chances = np.exp(
        xlogy(draws, draws)[:, None]
        - draws[:, None] * log_ratio
        - expected[None, few]
        - gammaln(draws + 1)[:, None]
    )
    rare = np.sum(chances * draws[:, None] * log_ratio)
    often = np.sum(0.5 + 1 / (12 * expected[~few]))  # its expansion for many draws
    return max(float(rare + often) - 1.5, 0.0) / count


def statistics(weight: Tensor) -> WeightStatistics:
    """The statistics of a weight of any shape and float dtype; the sums are in float64, over a piece of it at
    a time.
    """
    pieces = weight.reshape(-1).split(PIECE)
    mean = sum(float(piece.double().sum()) for piece in pieces) / weight.numel()
    low, high = weight.aminmax()
    if low == high:
        return WeightStatistics(float(low), 0.0)
    std = math.sqrt(sum(float((piece.double() - mean).square().sum()) for piece in pieces) / weight.numel())
    fourth, beyond, largest = 0.0, torch.zeros(len(OUTLIERS), dtype=torch.int64), 0.0
    histogram = torch.zeros(BINS + 2, dtype=torch.int64)
    for piece in pieces:
        z = (piece.double() - mean) / std
        fourth += float(z.square().square().sum())
        beyond += torch.stack([(z.abs() > limit).sum() for limit in OUTLIERS])
        largest = max(largest, float(z.abs().max()))
        places = ((z.clamp(-RANGE - 1, RANGE) + RANGE) / BIN_WIDTH).floor().clamp_min(-1).long() + 1
        histogram += torch.bincount(places, minlength=BINS + 2)
    counts = tuple(histogram.tolist())
    shares = tuple((beyond.double() / weight.numel()).tolist())
    by_chance = divergence_by_chance(weight.numel())
    return WeightStatistics(
        mean,
        std,
        fourth / weight.numel() - 3.0,
        divergence_from_gaussian(counts),
        by_chance,
        shares,
        largest,
        counts,
    )


def pooled_outliers(found: Sequence[WeightStatistics]) -> tuple[float, ...] | None:
    """The outliers among all entries of some weights, each in units of its own weight; None where none has
    them.
    """
    counts = [
        (one.outliers, sum(one.histogram))
        for one in found
        if one.outliers is not None and one.histogram is not None
    ]
    total = sum(count for _, count in counts)
    return (
        tuple(
            sum(shares[place] * count for shares, count in counts) / total for place in range(len(OUTLIERS))
        )
        if counts
        else None
    )


def saliency_shares(salient_max: float) -> tuple[float, ...]:
    """The shares p at which J is computed: STEPS + 1 from 0 to the largest."""
    return tuple(salient_max * step / STEPS for step in range(STEPS + 1))


def saliency_curves(
    weight: Tensor, salient_max: float, *, rounds: int, alpha: float
) -> tuple[SaliencyCurve, ...]:
    """J(p) of a weight (out, in) float32 for every number of bands and both ways to find the tail's levels.

    The tail beyond the last cut, and so its fit, is the same for any number of bands: it is fitted once, and
    the error of other bands is exchanged.
    """
    largest = float(weight.abs().max())
    unit = (
        weight / math.ldexp(1.0, min(math.frexp(largest)[1], 127)) if largest else weight
    )  # squares stay in range, as in the quantizer
    shares = saliency_shares(salient_max)
    curves = []
    for levels in TAIL_RULES:
        objective = SaliencyObjective(unit, BANDS[0], salient_max, levels, rounds=rounds, alpha=alpha)
        first = np.array([objective(share) for share in shares])
        for bands in BANDS:
            errors = first + np.array([_exchanged(objective, bands, share) for share in shares])
            best = int(errors.argmin())
            curves.append(
                SaliencyCurve(bands, levels, tuple(errors.tolist()), shares[best], float(errors[best]))
            )
    return tuple(curves)


def _exchanged(objective: SaliencyObjective, bands: int, share: float) -> float:
    """What J gains when the objective's bands become so many."""
    if objective.total == 0 or bands == objective.bands:
        return 0.0
    other = objective.histogram.band_error(cuts(bands, share, objective.mean, objective.std))
    return (other - objective.histogram.band_error(objective.edges(share))) / objective.total
