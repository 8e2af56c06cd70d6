"""Keep tokens that are unlike each other: greedy max-min distance, as DivPrune (arXiv 2503.02175) does.

    first: the token whose nearest neighbour is farthest
    next: the token whose nearest kept one is farthest

Distance is 1 - cosine. No attention, no text: the choice is the same for every question about an image.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.pruning.base import Candidates, Pruner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DiversityPruner(Pruner):
    """Greedy max-min cosine distance between features; it has no settings."""

    name: ClassVar[str] = "diversity"

    def select(self, candidates: Candidates, k: int) -> Tensor:
        return max_min(cosine_distances(candidates.features), k)


def cosine_distances(features: Tensor) -> Tensor:
    """1 - cosine between all rows of (n, d): (n, n) float32. A row of zeros is at distance 1 from all
    others.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    return 1.0 - unit @ unit.T


def max_min(distances: Tensor, k: int, chosen: Tensor | None = None) -> Tensor:
    """k rows of the distance matrix (n, n), each the farthest from those before it: (k,) ascending, the rows
    `chosen` (m,), m <= k, among them.
    """
    if chosen is None or not len(chosen):
        chosen = distances.clone().fill_diagonal_(torch.inf).amin(1).argmax().view(1)
    nearest = distances[chosen].amin(0)
    nearest[chosen] = -torch.inf
    kept = [chosen]
    for _ in range(k - len(chosen)):
        farthest = nearest.argmax().view(1)
        kept.append(farthest)
        nearest = torch.minimum(nearest, distances[farthest[0]])
        nearest[farthest] = -torch.inf
    return torch.cat(kept).sort().values
