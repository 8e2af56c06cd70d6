"""Attention and diversity together: some tokens because they receive attention, the rest because they differ
from those.

The first `share` of the budget goes to the tokens with the most attention. The others are chosen one by one,
each the farthest (1 - cosine) from all tokens that are already kept. Attention alone keeps many near copies
of the same patch; diversity alone keeps outliers that are irrelevant to the question.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bivlm.pruning.attention import AttentionPruner
from bivlm.pruning.base import Candidates, highest
from bivlm.pruning.diversity import cosine_distances, max_min


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class JoinedPruner(AttentionPruner):
    """`share` of the kept tokens by the attention that `attending` says, the others by distance. share = 0 is
    diversity, share = 1 attention.
    """

    name: ClassVar[str] = "joined"

    share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5

    def select(self, candidates: Candidates, k: int) -> Tensor:
        assert candidates.scores is not None
        looked_at = highest(candidates.scores, int(self.share * k + 0.5))
        return max_min(cosine_distances(candidates.features), k, chosen=looked_at)
