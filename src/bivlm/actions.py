"""Actions: continuous outputs of models that say them as tokens, one for each dimension.

    logits (n, vocabulary) that predict action tokens ─ values ─► what they say on average (n,), -1…1

OpenVLA (Kim et al., arXiv 2406.09246) cuts -1…1 into bins of equal width and writes them with the last
tokens of the vocabulary, the lowest value with the last of all. A robot moves by the middle of the likeliest
bin. The mean over the bins, by their probabilities, moves smoothly with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.errors import InputError

BINS = "n_action_bins"  # in config.json


@dataclass(frozen=True)
class ActionTokens:
    """The tokens of `bins` values from -1 to 1: token `vocabulary` - 1 - k has the k-th."""

    vocabulary: int
    bins: int

    def among(self, ids: Tensor) -> Tensor:
        """Which ids (n,) are action tokens: (n,) bool."""
        return (ids >= self.vocabulary - self.bins) & (ids < self.vocabulary)

    def values(self, logits: Tensor) -> Tensor:
        """The mean value (n,) float32 that logits (n, at least `vocabulary`) give to each action."""
        first = self.vocabulary - self.bins
        chances = logits[:, first : self.vocabulary].float().softmax(-1)
        return chances @ self._middles().to(logits.device).flip(0)

    def _middles(self) -> Tensor:
        """The values (bins,) from the lowest: the middles between `bins` edges, and the last of them once
        more, for the edge itself.
        """
        edges = torch.linspace(-1, 1, self.bins, device="cpu")
        middles = (edges[:-1] + edges[1:]) / 2
        return torch.cat([middles, middles[-1:]])


def action_tokens(config: PretrainedConfig) -> ActionTokens:
    """The action tokens of a model. InputError if its config names none."""
    bins = getattr(config, BINS, None)
    text = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", 0) - (getattr(config, "pad_to_multiple_of", None) or 0)
    if type(bins) is not int or not 2 <= bins <= vocabulary:
        said = "has none" if bins is None else f"has {bins!r}"
        raise InputError(
            f"fidelity=action needs a model that says actions as tokens: {BINS} in its config.json, a number"
            f" from 2 to the {vocabulary} tokens of its vocabulary, and config.json {said}; choose another"
            " fidelity"
        )
    return ActionTokens(vocabulary, bins)
