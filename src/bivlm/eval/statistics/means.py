"""Means of what was measured on questions, and their standard errors.

A few questions decide the arithmetic mean of a divergence that spans orders of magnitude: at one bit, three
of a hundred often hold most of the sum. The geometric and the trimmed mean say what happens to the others.

Questions about one image are not independent. The standard error is the clustered one of E. Miller, "Adding
Error Bars to Evals", 2024 (equation 4), with the images as clusters:

    SE² = Σ d² / (n (n - 1)) + Σ over clusters Σ_{i ≠ j} d_i d_j / n²,    d = value - mean

It is that of the central limit theorem where every cluster is one question. For a mean over tokens, weighted
by the tokens w of each question, d is (w / mean w) (value - mean), as for any ratio of two means.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

SMALLEST = 1e-9  # nats; a smaller divergence is rounding, and its logarithm would decide the mean
TRIMMED = 0.05  # share of the questions that is left out at either end


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """The values as float64. Raises ValueError if there are none, or if one is NaN or infinite."""
    found = np.asarray(values, dtype=np.float64)
    if found.size == 0:
        raise ValueError("there are no values")
    if not np.isfinite(found).all():
        raise ValueError("a value is not finite")
    return found


def weighted_mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The arithmetic mean, every value by its weight. Raises ValueError as `finite` does."""
    return float(np.average(finite(values), weights=None if weights is None else finite(weights)))


def geometric_mean(values: ArrayLike) -> float:
    """exp of the mean logarithm; values below 1e-9 (zero, and what rounding made negative) count as 1e-9.
    Raises ValueError as `finite` does.
    """
    return float(np.exp(log_values(values).mean()))


def log_values(values: ArrayLike) -> NDArray[np.float64]:
    """The logarithms of values, those below 1e-9 as 1e-9."""
    return np.log(np.maximum(finite(values), SMALLEST))


def trimmed_mean(values: ArrayLike) -> float:
    """The mean without the 5 % largest and the 5 % smallest. Raises ValueError as `finite` does."""
    return float(stats.trim_mean(finite(values), TRIMMED))


def standard_error(
    values: ArrayLike, clusters: Sequence[Hashable], weights: ArrayLike | None = None
) -> float | None:
    """The clustered standard error of the (weighted) mean; None for fewer than two clusters, which say
    nothing about others. `clusters` names the cluster of every value. Raises ValueError as `finite` does.
    """
    found = finite(values)
    weight = np.ones_like(found) if weights is None else finite(weights)
    numbers = cluster_numbers(clusters)
    count = len(found)
    if numbers.max() < 1:
        return None
    deviations = weight / weight.mean() * (found - np.average(found, weights=weight))
    squares, together = (deviations**2).sum(), np.bincount(numbers, weights=deviations)
    variance = squares / (count * (count - 1)) + ((together**2).sum() - squares) / count**2
    return math.sqrt(max(float(variance), 0.0))


def cluster_numbers(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    """The clusters as numbers from 0 on, in the order in which they come first."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(cluster, len(known)) for cluster in clusters], dtype=np.intp)
