"""How close a model's vectors are to those of a reference: the drift of each, and whether a search finds the
same neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bivlm.errors import InputError
from bivlm.eval.statistics.intervals import bootstrap_interval
from bivlm.pooling import drift

NEIGHBOURS = 10


@dataclass(frozen=True)
class Closeness:
    """A model's vectors next to a reference's. `drift` is the mean of 1 - cosine over all items, with its
    95 % interval, `largest_drift` the largest. `agreement` is the share of the `neighbours` nearest documents
    that are the reference's too, mean over queries (over items, each without itself, in a set without
    queries), with its interval; None where there are too few documents to differ.
    """

    drift: float
    drift_interval: tuple[float, float]
    largest_drift: float
    neighbours: int
    agreement: float | None
    agreement_interval: tuple[float, float] | None


def closeness(
    vectors: Tensor, reference: Tensor, queries: int, pools: Sequence[Sequence[int]], k: int = NEIGHBOURS
) -> Closeness:
    """The closeness of vectors (n, d) to a reference's; the first `queries` are queries, the others
    documents, and `pools` has the numbers of the documents that each query is ranked against.

    At most half of the smallest pool are neighbours, `k` otherwise. Raises InputError for vectors of other
    sizes, and for vectors of the reference that are not finite.
    """
    if vectors.shape != reference.shape:
        sizes = f"{reference.shape[1]} and {vectors.shape[1]} dimensions"
        raise InputError(f"the vectors of the reference and the model have {sizes}; they must have the same")
    if not reference.isfinite().all():
        raise InputError("the reference's vectors are NaN or infinite; give another reference")
    moved = drift(vectors, reference).nan_to_num(nan=2.0)
    documents = len(vectors) - queries
    if queries == 0:
        pools = [[other for other in range(documents) if other != own] for own in range(documents)]
    near = min([k, *(len(pool) // 2 for pool in pools)])
    if near < 1:
        shares, share, interval = [], None, None
    else:
        sources = range(queries or documents)
        shares = [
            _shared(vectors, reference, own, torch.tensor(list(pool)) + queries, near)
            for own, pool in zip(sources, pools, strict=True)
        ]
        share, interval = sum(shares) / len(shares), bootstrap_interval(shares, (0.0, 1.0))
    return Closeness(
        float(moved.mean()),
        bootstrap_interval(moved.tolist(), (0.0, 2.0)),
        float(moved.max()),
        near,
        share,
        interval,
    )


def _shared(vectors: Tensor, reference: Tensor, own: int, pool: Tensor, k: int) -> float:
    """The share of the k nearest of a pool that are the reference's k nearest too."""
    found, expected = (
        set((all_[pool] @ all_[own]).nan_to_num(nan=-2.0).topk(k).indices.tolist())
        for all_ in (vectors, reference)
    )
    return len(found & expected) / k
