"""The shared state of one pruning's hooks: the running call, and the decision that it made or found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bivlm.cutting import Kept


def pixels_in(inputs: Mapping[str, Any]) -> Tensor | None:
    """The image among a model's inputs: the first tensor of pixels, or of patches; None if there is none."""
    return next(
        (
            value
            for name, value in inputs.items()
            if ("pixel_values" in name or name.endswith("patches")) and isinstance(value, Tensor)
        ),
        None,
    )


@dataclass(frozen=True)
class Decision:
    """The tokens that stay of a batch of prompts.

    kept     the tokens of the sequence that is cut (the prompt, or the keys of cross-attention)
    chosen   for each prompt, which of its candidates stay: indices into its candidates, ascending
    offered  for each prompt, the number of its candidates
    prompt   the ids and pixels for which the decision was made
    """

    kept: Kept
    chosen: tuple[Tensor, ...]
    offered: tuple[int, ...]
    prompt: tuple[Tensor, Tensor]

    def goes_on(self, ids: Tensor, pixels: Tensor) -> bool:
        """Whether a call repeats the prompt of this decision, image included, with tokens after it."""
        known, seen = self.prompt
        count = known.shape[1]
        same = len(ids) == len(known) and ids.shape[1] > count and torch.equal(ids[:, :count], known)
        return same and pixels.shape == seen.shape and torch.equal(pixels, seen)


@dataclass
class Encoding:
    """One run of the vision tower: its inputs, its outputs, and the records of the hooks inside (tower.py)
    about its visual tokens, image by image.

    `generate` encodes the images before it calls the model, `forward` does it itself; either way it is one
    call of `get_image_features`.
    """

    inputs: Mapping[str, Any]
    output: Any = None
    scores: Tensor | None = None  # (visual tokens of the batch,) attention at the end of the tower
    stays: Tensor | None = None  # (visual tokens of the batch,) boolean, where the tower dropped patches
    patches: Any = None  # what stays in the tower (tower.py)


@dataclass
class Call:
    """One forward pass: its inputs, the number of tokens in the cache, and, for a prompt that is read whole,
    the positions of its visual tokens.

    `visual` (batch, t) is None if there is a past; `places` and `seeds` have an entry for each prompt;
    `prompt` identifies a decision.
    """

    inputs: Mapping[str, Any]
    past: int
    visual: Tensor | None = None
    seeds: tuple[int, ...] = ()
    places: tuple[Tensor, ...] = ()
    prompt: tuple[Tensor, Tensor] | None = None
    decision: Decision | None = None

    def real(self) -> Tensor:
        """(batch, t) boolean: False at padding."""
        assert self.visual is not None
        mask = self.inputs.get("attention_mask")
        return torch.ones_like(self.visual) if mask is None or mask.dim() != 2 else mask.bool()


def decision_from(call: Call, kept: Kept, candidates: Tensor, chosen: Tensor) -> Decision:
    """The decision of a call, from the masks (batch, n) of the candidates and of the chosen tokens."""
    assert call.prompt is not None
    ordinals = tuple((row[mask]).nonzero()[:, 0] for row, mask in zip(chosen, candidates, strict=True))
    return Decision(kept, ordinals, tuple(candidates.sum(1).tolist()), call.prompt)
