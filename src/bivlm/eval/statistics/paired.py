"""Is one model better than another on the same questions? Differences, their intervals, and tests.

Both models answered the same questions, so the differences question by question are what is tested. Questions
about one image go together: a test or a bootstrap keeps or moves an image with all of its questions.

    right or wrong, one question an image   McNemar's exact test: of the questions that one model alone has
                                            right, each is as likely to be either's (McNemar 1947)
    anything else                           sign flips: if the models were alike, the two could be swapped on
                                            any image (Fisher 1935; "approximate randomization", Noreen 1989)

McNemar's test is the sign flips' in closed form. The interval is from a paired bootstrap over images, by
percentiles. BCa intervals were tried: where both models have the same divergences, log-normal over questions
with a standard deviation of 2.5 (as at one bit), and 120 questions, they hold the difference 0 in 77 % of the
cases and percentiles in 91 %, instead of 95 %. A p-value from the bootstrap would be as wrong; that of the
sign flips is exact for models that are alike, whatever the distribution. So the test decides, and near the
edge it may not say what the interval says.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bivlm.eval.statistics.intervals import CONFIDENCE
from bivlm.eval.statistics.means import cluster_numbers, finite, log_values

Verdict = Literal["better", "worse", "not told apart"]

RESAMPLES = 4999
FLIPS = 10_000
EXACT = 13  # images up to which all flips are tried
BATCH = 500  # resamples or flips at a time; bounds the memory
ROUNDING = 1e-12  # sums that differ by less are the same
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """The second model minus the first, on the same questions.

    `interval` holds 95 % of the bootstrap, None for fewer than two images. `p` is that of `test`; `verdict`
    says of the second model whether it is better or worse, or that the two cannot be told apart (p is 0.05 or
    more). Where several models are compared with the first, `corrected` makes `p` and `verdict` hold for all
    of them together.
    """

    difference: float
    interval: tuple[float, float] | None
    p: float
    test: str
    verdict: Verdict
    higher_is_better: bool


def score_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable]
) -> Difference:
    """The difference of two mean scores. Raises ValueError for different numbers of questions, or a score
    that is not finite.
    """
    before, after, numbers = _checked(first, second, clusters)
    binary = np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all()
    p = _mcnemar(before, after) if binary and numbers.max() + 1 == len(numbers) else None
    return _difference(after - before, np.ones_like(before), numbers, p, higher_is_better=True)


def kl_difference(
    first: Sequence[float],
    second: Sequence[float],
    tokens: Sequence[int],
    clusters: Sequence[Hashable],
) -> Difference:
    """The difference of two mean divergences, every question by its `tokens`. Raises ValueError as
    `score_difference` does.
    """
    before, after, numbers = _checked(first, second, clusters)
    return _difference(after - before, finite(tokens), numbers, None, higher_is_better=False)


def geometric_kl_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable]
) -> Difference:
    """The logarithm of the ratio of two geometric mean divergences: -0.69 is half of the first one's. Raises
    ValueError as `score_difference` does.
    """
    before, after, numbers = _checked(first, second, clusters)
    return _difference(
        log_values(after) - log_values(before), np.ones_like(before), numbers, None, higher_is_better=False
    )


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with the p-values of Holm (1979), which hold for all of them together."""
    adjusted = holm([difference.p for difference in differences])
    return [
        replace(difference, p=p, verdict=_verdict(difference.difference, p, difference.higher_is_better))
        for difference, p in zip(differences, adjusted, strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values times the number of hypotheses that are left, from the smallest on, never falling, at most
    1 (Holm, "A simple sequentially rejective multiple test procedure", 1979).
    """
    order = np.argsort(ps, kind="stable")
    factors = len(ps) - np.arange(len(ps))
    raised = np.minimum(np.maximum.accumulate(np.asarray(ps, dtype=np.float64)[order] * factors), 1.0)
    adjusted = np.empty_like(raised)
    adjusted[order] = raised
    return adjusted.tolist()


def _checked(
    first: ArrayLike, second: ArrayLike, clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    before, after = finite(first), finite(second)
    if not len(before) == len(after) == len(clusters):
        raise ValueError(f"{len(before)} and {len(after)} values in {len(clusters)} clusters are no pairs")
    return before, after, cluster_numbers(clusters)


def _difference(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    numbers: NDArray[np.intp],
    p: float | None,
    *,
    higher_is_better: bool,
) -> Difference:
    """The weighted mean of differences, over clusters; `p` is that of McNemar's test, or None for sign
    flips.
    """
    sums, counts = (
        np.bincount(numbers, weights=each).astype(np.float64) for each in (values * weights, weights)
    )
    difference = float(sums.sum() / counts.sum())
    test = "McNemar" if p is not None else "sign flips"
    p = _sign_flips(sums) if p is None else p
    verdict = _verdict(difference, p, higher_is_better)
    return Difference(difference, _interval(sums, counts), p, test, verdict, higher_is_better)


def _verdict(difference: float, p: float, higher_is_better: bool) -> Verdict:
    if p >= SIGNIFICANT:
        return "not told apart"
    return "better" if (difference > 0) == higher_is_better else "worse"


def _mcnemar(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    gained, lost = int((after > before).sum()), int((after < before).sum())
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def _sign_flips(sums: NDArray[np.float64]) -> float:
    """The two-sided p-value of a sum of differences whose signs are arbitrary. Clusters without a difference
    have none.
    """
    differing = sums[sums != 0]
    if differing.size < 2:
        return 1.0
    observed = abs(differing.sum()) * (1 - ROUNDING)
    exact = differing.size <= EXACT
    signs = _all_signs(differing.size) if exact else _random_signs(differing.size)
    reached = [np.abs(block @ differing) >= observed for block in signs]
    count, tried = sum(int(block.sum()) for block in reached), sum(map(len, reached))
    return count / tried if exact else (count + 1) / (tried + 1)


def _all_signs(size: int) -> Iterator[NDArray[np.float64]]:
    yield 1.0 - 2.0 * (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.float64)


def _random_signs(size: int) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    for _ in range(FLIPS // BATCH):
        yield 1.0 - 2.0 * rng.integers(0, 2, (BATCH, size), dtype=np.int8).astype(np.float64)


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float] | None:
    if len(sums) < 2:
        return None
    if np.ptp(sums / counts) == 0:  # every resample is the same
        value = float(sums[0] / counts[0])
        return value, value
    found = stats.bootstrap(
        (sums, counts),
        lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
