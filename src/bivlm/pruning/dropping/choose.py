"""From scores to a decision: a pruner is asked prompt by prompt, each with its own budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bivlm.pruning.base import Candidates, Pruner, tokens_kept


def choose(
    pruner: Pruner,
    keep: float,
    candidates: Tensor,
    features: Tensor,
    scores: Tensor | None,
    places: Sequence[Tensor],
    seeds: Sequence[int],
) -> Tensor:
    """Which of the `candidates` stay: (batch, n) boolean, True only for these. `candidates` (batch, n) is
    True where a token may be dropped.

    `features` (batch, n, d) and `scores` (batch, n) have an entry for every token; `places` has for each
    prompt those of its candidates, in order.
    """
    chosen = candidates.clone()
    for row, (mask, where, seed) in enumerate(zip(candidates, places, seeds, strict=True)):
        tokens = mask.nonzero()[:, 0]
        k = tokens_kept(len(tokens), keep)
        if k == len(tokens):
            continue
        seen = Candidates(
            features[row, tokens],
            None if scores is None else scores[row, tokens],
            where.to(features.device),
            seed,
        )
        stay = pruner.select(seen, k)
        chosen[row, tokens] = False
        chosen[row, tokens[stay]] = True
    assert torch.equal(chosen & candidates, chosen)
    return chosen
