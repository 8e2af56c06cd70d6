"""The exact optimum of weighted k-means in one dimension, for many rows at once.

    levels of a row = argmin Σ_j importance_j (w_j - nearest level)²

In one dimension the clusters of an optimum are runs of the sorted weights, so the best k of them follow from
the best k - 1 by dynamic programming (Wang, Song, The R Journal 3(2), 2011). With S the sums of importance
and S1 those of importance * w up to a place, a run i…m contributes -(S1_m - S1_i)² / (S_m - S_i) to the error
and a constant; D_k(m) is the best sum for the first m weights with k levels:

    D_k(m) = max over i ≤ m of  D_{k-1}(i) + (S1_m - S1_i)² / (S_m - S_i)

The best i does not fall as m grows. So the middle place is decided first, and bounds the others on both
sides: O(k n log n) for a row of n weights instead of O(k n²). All rows take the same steps. What is open for
a place has another length in each row, so a step works on all of it as one list.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_AT_ONCE = 1 << 18  # weights whose rows are solved together: their sums stay in the cache


def best_levels(w: Tensor, importance: Tensor, count: int) -> Tensor:
    """The best `count` levels of every row of `w` (out, in) under `importance` (out, in) ≥ 0: (out, count)
    float32, ascending. A row without importance counts all its weights alike.

    Levels that a row does not need (it has fewer weights that count) repeat a neighbour.
    """
    alike = ~(importance > 0).any(1, keepdim=True)
    weight = torch.where(alike, 1.0, importance).double()
    weight /= weight.amax(1, keepdim=True)
    ordered, order = w.double().sort(1)
    weight = weight.gather(1, order)
    step = max(1, _AT_ONCE // w.shape[1])
    rows = [
        _solve(part.numpy(), by.numpy(), count)
        for part, by in zip(ordered.split(step), weight.split(step), strict=True)
    ]
    return torch.from_numpy(np.concatenate(rows)).float()


def _solve(w: np.ndarray, importance: np.ndarray, count: int) -> np.ndarray:
    """The levels (rows, count) of ascending weights (rows, n)."""
    rows, n = w.shape
    zero = np.zeros((rows, 1))
    mass = np.concatenate([zero, importance.cumsum(1)], 1)
    moment = np.concatenate([zero, (importance * w).cumsum(1)], 1)
    best = _gain(mass, moment)
    starts = []  # of the last run, by the number of levels and the place where it ends
    for _ in range(2, count):
        best, start = _one_more(mass, moment, best)
        starts.append(start)
    levels, row = np.empty((rows, count)), np.arange(rows)
    end = np.full(rows, n)
    for level in range(count - 1, -1, -1):
        if level == 0:
            begin = np.zeros(rows, np.int64)
        elif level == count - 1:  # of the last level only the place after all weights matters
            whole = np.zeros((rows, 1), np.int64), np.full((rows, 1), n)
            begin = _best_starts(mass, moment, best, end[:1], *whole)[1][:, 0]
        else:
            begin = starts[level - 1][row, end]
        levels[:, level] = _mean(w, mass, moment, begin, end)
        end = begin
    return np.sort(levels, 1)


def _gain(mass: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """moment² / mass, 0 without mass."""
    return np.divide(moment * moment, mass, out=np.zeros_like(mass), where=mass > 0)


def _mean(
    w: np.ndarray, mass: np.ndarray, moment: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """The means of the runs begin…end - 1, one for each row; a run without mass gets the weight at its
    beginning.
    """
    row = np.arange(len(w))
    weight = mass[row, end] - mass[row, begin]
    total = moment[row, end] - moment[row, begin]
    first = w[row, np.minimum(begin, w.shape[1] - 1)]
    return np.divide(total, weight, out=first.copy(), where=weight > 0)


def _one_more(mass: np.ndarray, moment: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """D_k of every place (rows, n + 1), and where its last run begins, from D_{k-1}."""
    rows, places = best.shape
    value, start = np.empty_like(best), np.zeros((rows, places), np.int64)
    # bounds of the beginnings, at all places that are decided, and at one before and one after all of them
    decided = np.array([-1, places])
    low, high = np.zeros((rows, 1), np.int64), np.full((rows, 1), places - 1)
    bounds = np.concatenate([low, high], 1)
    while len(decided) < places + 2:
        gaps = np.flatnonzero(np.diff(decided) > 1)
        middle = (decided[gaps] + decided[gaps + 1]) // 2
        least = bounds[:, gaps]
        most = np.minimum(bounds[:, gaps + 1], middle)
        found, at = _best_starts(mass, moment, best, middle, least, most)
        value[:, middle], start[:, middle] = found, at
        decided = np.insert(decided, gaps + 1, middle)
        bounds = np.insert(bounds, gaps + 1, at, axis=1)
    return value, start


def _best_starts(
    mass: np.ndarray,
    moment: np.ndarray,
    best: np.ndarray,
    middle: np.ndarray,
    least: np.ndarray,
    most: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The best value of the places `middle` (m,) of every row, and the first beginning least…most (rows, m)
    that has it.
    """
    rows, places = best.shape
    length = (most - least + 1).ravel()
    first = np.concatenate([[0], length.cumsum()[:-1]])
    row = np.arange(rows)[:, None] * places
    begin = np.arange(length.sum()) + np.repeat((row + least).ravel() - first, length)
    end = (row + middle).ravel()
    width = np.repeat(mass.ravel()[end], length) - mass.ravel()[begin]
    total = np.repeat(moment.ravel()[end], length) - moment.ravel()[begin]
    total *= total
    np.divide(total, width, out=total, where=width > 0)
    total += best.ravel()[begin]
    value = np.maximum.reduceat(total, first)
    hits = np.flatnonzero(total == np.repeat(value, length))
    segment = np.searchsorted(first, hits, side="right") - 1
    at = np.empty(len(first), np.int64)
    at[segment[::-1]] = hits[::-1]  # the first of equal ones is written last
    at = at - first + least.ravel()
    return value.reshape(rows, -1), at.reshape(rows, -1)
