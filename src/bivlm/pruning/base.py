"""The interface of pruners: a pruner chooses which of a prompt's tokens stay, and knows nothing of models,
caches or formats.

Candidates (n tokens of one prompt) ─ select(candidates, k) ─► k of 0 … n-1, ascending
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

Queries = Literal["all", "last"]


@dataclass(frozen=True)
class Candidates:
    """The n tokens of one prompt that may be dropped.

    `features` (n, d) are the inputs of the deciding layer: hidden states, or the vision tower's projected
    output. `scores` (n,) float32 is the attention that each token receives there (`Pruner.queries` says from
    which tokens); None if the pruner asks for none. `places` (n, 3) float32 are the number of the image (or
    tile), row and column in it, in units of tokens. `seed` is always the same for the same prompt.
    """

    features: Tensor
    scores: Tensor | None
    places: Tensor
    seed: int


class Pruner(ABC):
    """A way to choose. Subclasses are pydantic dataclasses (frozen, unknown fields forbidden); their fields
    are the method's settings.
    """

    name: ClassVar[str]

    @property
    def queries(self) -> Queries | None:
        """The tokens whose attention `Candidates.scores` averages: all tokens that can attend, or the last
        one alone; None to ask for no scores.
        """
        return None

    @abstractmethod
    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k tokens that stay, 1 <= k < n: (k,) int64, ascending, all different. Ties go to the earlier
        token.
        """


def tokens_kept(count: int, keep: float) -> int:
    """The number of tokens for a share `keep` of `count`: rounded half up, at least one; 0 if `count` is
    0.
    """
    return min(count, max(1, int(keep * count + 0.5))) if count else 0


def highest(scores: Tensor, k: int) -> Tensor:
    """Indices of the k highest scores (n,): (k,) ascending; of equal scores the earlier one."""
    return scores.argsort(descending=True, stable=True)[:k].sort().values
