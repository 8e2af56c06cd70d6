"""The next token of every row of a batch, each chosen as its own request asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bivlm.serving.asked import Sampling


class Chooser:
    """Chooses the tokens of one row; draws of a row do not depend on the other rows."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling, self._random = sampling, torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % (1 << 63))

    def choose(self, logits: Tensor) -> int:
        """A token for logits (vocabulary,)."""
        if self.sampling.temperature == 0.0:
            return int(logits.argmax())
        probable = (logits.float().cpu() / self.sampling.temperature).softmax(0)
        ordered, tokens = probable.sort(descending=True)
        before = ordered.cumsum(0) - ordered
        ordered[before >= self.sampling.top_p] = 0.0  # never the first: nothing is before it
        return int(tokens[torch.multinomial(ordered, 1, generator=self._random)])


def chosen(logits: Tensor, choosers: Sequence[Chooser], forbidden: Sequence[int]) -> list[int]:
    """A token for each row of logits (n, vocabulary); none of `forbidden`, which the vocabulary need not
    have.
    """
    found = [token for token in forbidden if token < logits.shape[1]]
    if found:
        logits = logits.index_fill(1, torch.tensor(found, device=logits.device), -torch.inf)
    return [chooser.choose(row) for chooser, row in zip(choosers, logits, strict=True)]
