"""Keep the tokens that receive the most attention in the deciding layer.

Bi-VLM (arXiv 2509.18763), Eq. 23: the score of token i is the attention that it receives, averaged over heads
and over the attending tokens,

    score(i) = 1/|A(i)| Σ_{r in A(i)} 1/H Σ_h softmax(q_r k^T / √d)[h, r, i]
    A(i): the tokens that can attend to i

FastV (arXiv 2403.06764) describes the same average; its code takes the row of the last token alone
(`queries="last"`).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.pruning.base import Candidates, Pruner, Queries, highest


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AttentionPruner(Pruner):
    """Rank by received attention. `attending` says from which tokens: "all" that can attend (the paper) or
    the "last" one (FastV's code).
    """

    name: ClassVar[str] = "attention"

    attending: Queries = "all"

    @property
    def queries(self) -> Queries:
        return self.attending

    def select(self, candidates: Candidates, k: int) -> Tensor:
        assert candidates.scores is not None
        return highest(candidates.scores, k)
