"""The choices of a pruning, prompt by prompt: to record them, to repeat them, and to compare two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from bivlm.pruning.base import Candidates, Pruner, Queries
from bivlm.pruning.dropping.state import Decision


@dataclass
class Heard:
    """Records the choices of a pruning: for every prompt, which candidates stay, and the number of
    candidates.
    """

    choices: list[tuple[Tensor, int]] = field(default_factory=list)

    def __call__(self, decision: Decision) -> None:
        self.choices += zip(decision.chosen, decision.offered, strict=True)

    @property
    def kept_tokens(self) -> float | None:
        """The mean number of candidates that stay; None when nothing was dropped."""
        return fmean([len(stay) for stay, _ in self.choices]) if self.choices else None


@dataclass
class Replay(Pruner):
    """Repeats recorded choices, in the same order of prompts."""

    name: ClassVar[str] = "replay"

    choices: list[Tensor]
    place: int = 0

    @property
    def queries(self) -> Queries | None:
        return None

    def select(self, candidates: Candidates, k: int) -> Tensor:
        chosen = self.choices[self.place]
        self.place += 1
        assert len(chosen) == k, (len(chosen), k)
        return chosen


def overlap(one: Sequence[tuple[Tensor, int]], other: Sequence[tuple[Tensor, int]]) -> float | None:
    """Mean share of the kept tokens that both keep; None when nothing was dropped."""
    shares = [
        torch.isin(mine, theirs).float().mean().item()
        for (mine, count), (theirs, _) in zip(one, other, strict=True)
        if len(mine) < count
    ]
    return fmean(shares) if shares else None
