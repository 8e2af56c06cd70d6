"""How good a ranking is: hit, recall, reciprocal rank and nDCG of the right documents among all.

    scores (m,), which are right (m,) ─ by_rank ─► right or not, best score first ─► numbers in 0…1

hit@1 is what MMEB calls precision@1 (VLM2Vec, arXiv 2410.05160). nDCG: Järvelin and Kekäläinen, "Cumulated
gain-based evaluation of IR techniques", 2002, with gains of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def by_rank(scores: Tensor, right: Tensor) -> list[bool]:
    """Whether each document (m,) is right, the best score first. Among equal scores the right ones come last,
    so that equal vectors for everything earn nothing; a score that is not finite is the lowest.
    """
    known = scores.masked_fill(~scores.isfinite(), -math.inf)
    wrong_first = right.int().argsort(stable=True)
    order = wrong_first[known[wrong_first].argsort(descending=True, stable=True)]
    return right[order].tolist()


def hit(ranked: Sequence[bool], k: int) -> float:
    """1 if one of the first k is right."""
    return float(any(ranked[:k]))


def recall(ranked: Sequence[bool], k: int, count: int) -> float:
    """The share of the `count` right documents that are among the first k."""
    return sum(ranked[:k]) / count


def reciprocal_rank(ranked: Sequence[bool], k: int | None = None) -> float:
    """One over the rank of the first right document; 0 if none is among the first k."""
    return next((1 / rank for rank, one in enumerate(ranked[:k], 1) if one), 0.0)


def ndcg(ranked: Sequence[bool], k: int, count: int) -> float:
    """Discounted gain of the first k, over that of a ranking with the `count` right documents first."""
    gain = sum(1 / math.log2(rank + 1) for rank, one in enumerate(ranked[:k], 1) if one)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, count) + 1))
