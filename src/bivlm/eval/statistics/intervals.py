"""The interval of a mean score.

Wilson: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


def mean_interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of scores in [0, 1], with questions taken as independent.

    It is Wilson's interval if every score is 0 or 1; otherwise it is from a seeded bootstrap (percentiles).
    For a single score a bootstrap is meaningless, and the interval is (0, 1). Raises ValueError without
    scores.
    """
    if not len(scores):
        raise ValueError("the mean of no scores has no interval")
    values = np.asarray(scores, dtype=np.float64)
    if np.isin(values, (0.0, 1.0)).all():
        interval = stats.binomtest(int(values.sum()), len(values)).proportion_ci(CONFIDENCE, method="wilson")
        return float(interval.low), float(interval.high)
    return bootstrap_interval(values, (0.0, 1.0), seed)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, possible: tuple[float, float], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean of any values, independent of each other, from a seeded bootstrap
    (percentiles). For a single value it is all that is `possible`. Raises ValueError without values.
    """
    if not len(values):
        raise ValueError("the mean of no values has no interval")
    if len(values) == 1:
        return possible
    resampling = {"n_resamples": RESAMPLES, "batch": 100, "rng": np.random.default_rng(seed)}
    interval = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        confidence_level=CONFIDENCE,
        method="percentile",
        **resampling,
    ).confidence_interval
    return float(interval.low), float(interval.high)
