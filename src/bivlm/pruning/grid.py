"""Keep evenly spaced tokens: the baseline that any other choice has to beat. It uses only the tokens' places.

k points of a Fibonacci lattice are laid over each image (even at every k, square or not), and each takes the
nearest token that is still free.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.pruning.base import Candidates, Pruner

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class GridPruner(Pruner):
    """Evenly spaced in each image; several images share the budget by their numbers of tokens. It has no
    settings.
    """

    name: ClassVar[str] = "grid"

    def select(self, candidates: Candidates, k: int) -> Tensor:
        image = candidates.places[:, 0]
        members = [(image == number).nonzero()[:, 0] for number in image.unique()]
        shares = shared_out([len(tokens) for tokens in members], k)
        kept = [
            tokens[evenly_spaced(candidates.places[tokens, 1:], share)]
            for tokens, share in zip(members, shares, strict=True)
        ]
        return torch.cat(kept).sort().values


def shared_out(sizes: list[int], k: int) -> list[int]:
    """k split in proportion to `sizes`, by largest remainders; no share is larger than its size."""
    exact = [k * size / sum(sizes) for size in sizes]
    shares = [math.floor(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda index: shares[index] - exact[index])
    for index in order[: k - sum(shares)]:
        shares[index] += 1
    return shares


def evenly_spaced(places: Tensor, k: int) -> Tensor:
    """Indices of k tokens of (n, 2) places that cover them evenly: (k,)."""
    low, high = places.amin(0), places.amax(0)
    turn = torch.arange(k, dtype=torch.float64)
    lattice = torch.stack([(turn + 0.5) / max(k, 1), (turn * GOLDEN + 0.5) % 1.0], dim=1)
    points = (low.cpu().double() - 0.5) + lattice * (high - low + 1).cpu().double()
    distances = torch.cdist(points, places.cpu().double())
    free = torch.zeros(len(places), dtype=torch.float64)
    kept = []
    for row in distances:
        nearest = int((row + free).argmin())
        free[nearest] = torch.inf
        kept.append(nearest)
    return torch.tensor(kept, dtype=torch.int64, device=places.device)
