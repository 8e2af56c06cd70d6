"""How many bits each row gets: from the cost of every row at every width to a width for every row.

All rows begin at the largest width. Again and again the row with the lowest score gives up bits, until the
rest fits. The score is per bit that is saved:

    "cost"      the cost of the row at the next smaller width                 as QVLA's public code does
    "increase"  how much the cost grows, down the lower convex hull of (size, cost)

With "increase" the sum of the costs is the least that any widths of this total size have, up to the last
step; with "cost" a row that is expensive at every width keeps bits that save nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Score = Literal["cost", "increase"]


def choose_widths(costs: Tensor, sizes: Sequence[Sequence[float]], budget: float, score: Score) -> Tensor:
    """The width of every row, (rows,) int64, as an index of the second dimension of `costs` (rows, widths).

    `sizes` (rows, widths) are ascending in every row. The total is at most `budget`, unless the smallest
    widths exceed it. Ties go to the first row.
    """
    steps = [
        _all_steps(own, size) if score == "cost" else _hull_steps(own, size)
        for own, size in zip(costs.tolist(), sizes, strict=True)
    ]
    chosen = [len(size) - 1 for size in sizes]
    total = sum(size[-1] for size in sizes)
    waiting = [(own[0][0], row, 0) for row, own in enumerate(steps) if own]
    heapq.heapify(waiting)
    while total > budget + 1e-9 and waiting:
        _, row, place = heapq.heappop(waiting)
        width = steps[row][place][1]
        total -= sizes[row][chosen[row]] - sizes[row][width]
        chosen[row] = width
        if place + 1 < len(steps[row]):
            heapq.heappush(waiting, (steps[row][place + 1][0], row, place + 1))
    return torch.tensor(chosen, dtype=torch.int64, device="cpu")


def _all_steps(costs: Sequence[float], sizes: Sequence[float]) -> list[tuple[float, int]]:
    """(score, width) of the steps from the largest width down, each to the next."""
    return [
        (costs[width] / max(sizes[width + 1] - sizes[width], 1e-8), width)
        for width in reversed(range(len(sizes) - 1))
    ]


def _hull_steps(costs: Sequence[float], sizes: Sequence[float]) -> list[tuple[float, int]]:
    """(score, width) of the steps down the lower convex hull; their scores ascend."""
    hull: list[int] = []
    for width in reversed(range(len(sizes))):
        while len(hull) > 1 and _slope(costs, sizes, hull[-2], hull[-1]) >= _slope(
            costs, sizes, hull[-1], width
        ):
            hull.pop()
        hull.append(width)
    return [(_slope(costs, sizes, above, below), below) for above, below in pairwise(hull)]


def _slope(costs: Sequence[float], sizes: Sequence[float], above: int, below: int) -> float:
    return (costs[below] - costs[above]) / (sizes[above] - sizes[below])
