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
    if not scores:
        raise ValueError("the mean of no scores has no interval")
    values = np.asarray(scores, dtype=np.float64)
    if np.isin(values, (0.0, 1.0)).all():
        interval = stats.binomtest(int(values.sum()), len(values)).proportion_ci(CONFIDENCE, method="wilson")
    elif len(values) == 1:
        return 0.0, 1.0
    else:
        resampling = {"n_resamples": RESAMPLES, "batch": 100, "rng": np.random.default_rng(seed)}
        interval = stats.bootstrap(
            (values,), np.mean, confidence_level=CONFIDENCE, method="percentile", **resampling
        ).confidence_interval
    return float(interval.low), float(interval.high)
