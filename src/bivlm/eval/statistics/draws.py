"""What a calibration draw decides: the spread of a number over draws, and whether a difference holds in
all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bivlm.eval.statistics.means import finite


@dataclass(frozen=True)
class Spread:
    """A number over several draws: mean, smallest, largest, and standard deviation (None for one draw)."""

    mean: float
    low: float
    high: float
    deviation: float | None


@dataclass(frozen=True)
class OverDraws:
    """A difference over several draws.

    `holds` says that it has the same sign in every draw; by chance alone that happens in one of 2^(draws - 1)
    cases. `p` is that of Student's paired test over the draws, None for one draw, or where all differences
    are the same.
    """

    differences: tuple[float, ...]
    holds: bool
    p: float | None


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError without values, or for one that is not finite."""
    found = finite(values)
    deviation = float(found.std(ddof=1)) if len(found) > 1 else None
    return Spread(float(found.mean()), float(found.min()), float(found.max()), deviation)


def over_draws(first: Sequence[float], second: Sequence[float]) -> OverDraws:
    """The second model minus the first, draw by draw. A model that needs no draw has one number, which counts
    for all draws of the other. Raises ValueError for other numbers of draws that differ, and for numbers that
    are not finite.
    """
    before, after = finite(first), finite(second)
    if len(before) != len(after) and 1 not in (len(before), len(after)):
        raise ValueError(f"{len(before)} and {len(after)} draws are no pairs")
    differences = after - before
    holds = bool((differences > 0).all() or (differences < 0).all())
    told = len(differences) > 1 and np.ptp(differences) > 0
    tested: Any = stats.ttest_1samp(differences, 0.0) if told else None
    return OverDraws(tuple(differences.tolist()), holds, None if tested is None else float(tested.pvalue))
