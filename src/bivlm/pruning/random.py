"""Keep random tokens: a baseline without any knowledge. The choice depends only on the seed and the prompt,
so runs can be repeated.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.pruning.base import Candidates, Pruner


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RandomPruner(Pruner):
    """Draw without replacement. `seed` starts the draw, together with the prompt."""

    name: ClassVar[str] = "random"

    seed: int = 0

    def select(self, candidates: Candidates, k: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, candidates.seed)) % 2**63)
        return (
            torch.randperm(len(candidates.features), generator=generator)[:k]
            .sort()
            .values.to(candidates.features.device)
        )
