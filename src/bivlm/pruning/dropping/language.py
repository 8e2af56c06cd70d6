"""Dropping tokens inside the language model: from one block on the sequence is shorter, and so are cache,
positions and masks.

The deciding block chooses by its input and cuts the hidden states. This block and all later ones get shorter
positions and masks, and a cache layer that records which tokens it holds (cache.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.pruning.dropping.cache import cache_in, kept_in, make_pruned
from bivlm.pruning.dropping.choose import choose
from bivlm.pruning.dropping.kept import Kept
from bivlm.pruning.dropping.received import attention_received
from bivlm.pruning.dropping.state import Call, Encoding, decision_from

if TYPE_CHECKING:
    from bivlm.pruning.apply import TokenPruning


class LanguageDrop:
    """The hooks on the language blocks of a model whose visual tokens are in the prompt."""

    def __init__(self, owner: TokenPruning) -> None:
        self.owner = owner
        self.blocks = language_blocks(owner)
        self.first = owner.pruning.layer if owner.pruning.site == "language" else 0
        if self.first >= len(self.blocks):
            raise InputError(
                f"layer is {self.first}, and the language model has the blocks 0 to {len(self.blocks) - 1}"
            )

    def attach(self) -> Iterator[Any]:
        for index, block in enumerate(self.blocks):
            if index >= self.first:
                yield block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True)

    def _before(
        self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = self.owner.call
        if call is None:
            return None
        cache, hidden = cache_in(kwargs), args[0]
        if call.past:
            kept = kept_in(cache, index)
            return None if kept is None else (args, kept.call_arguments(kwargs, hidden.shape[1], call.past))
        if index == self.first and call.decision is None:
            self._decide(call, block, args, kwargs)
        if call.decision is None:
            return None
        assert call.visual is not None
        count = call.visual.shape[1]
        kept = call.decision.kept.grown(count)
        if index == self.first:
            hidden = kept.take(hidden, 1)
        make_pruned(cache, index, kept)
        return (hidden, *args[1:]), kept.call_arguments(kwargs, count, 0)

    def _decide(self, call: Call, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        real, candidates = call.real(), self._candidates(call)
        if self.owner.pruning.site == "vision":
            noted = self._noted(call)
            assert noted.stays is not None
            chosen = _laid_out(candidates, noted.stays)
        else:
            chosen = self._choose(call, candidates, real, block, args, kwargs)
        if bool((chosen == candidates).all()):
            return
        self.owner.decided(decision_from(call, Kept.of(real & (~candidates | chosen)), candidates, chosen))

    def _candidates(self, call: Call) -> Tensor:
        assert call.visual is not None
        if self.owner.pruning.tokens == "image":
            return call.visual
        text = call.real() & ~call.visual
        return text.scatter(1, last_real(call.real())[:, None], False)

    def _noted(self, call: Call) -> Encoding:
        """The vision tower's record of this call's images."""
        noted, visual = self.owner.encoding, call.visual
        values = None if noted is None else noted.stays if noted.stays is not None else noted.scores
        if noted is None or values is None or visual is None or len(values) != int(visual.sum()):
            what = "the images were encoded elsewhere, or copied for several beams or answers"
            raise InputError(
                f"site {self.owner.pruning.site} looks into the vision tower, and {what}; use the site"
                " language, or num_beams=1"
            )
        return noted

    def _choose(
        self,
        call: Call,
        candidates: Tensor,
        real: Tensor,
        block: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        owner, hidden, scores = self.owner, args[0], None
        if owner.pruner.queries is not None and owner.pruning.site == "input":
            noted = self._noted(call)
            assert noted.scores is not None
            scores = _laid_out(candidates, noted.scores)
        elif owner.pruner.queries is not None:
            rows = last_real(real)[:, None] if owner.pruner.queries == "last" else None
            scores = attention_received(block, args, kwargs, tokens=hidden.shape[1], rows=rows, real=real)
        places = (
            call.places
            if owner.pruning.tokens == "image"
            else tuple(line(int(count)) for count in candidates.sum(1))
        )
        return choose(owner.pruner, owner.pruning.keep, candidates, hidden, scores, places, call.seeds)


def language_blocks(owner: TokenPruning) -> list[nn.Module]:
    stack = next(stack for stack in owner.family.stacks if stack.part == "language")
    return list(owner.model.get_submodule(stack.path))


def _laid_out(where: Tensor, values: Tensor) -> Tensor:
    """`values` (m,) at the m places of the mask `where` (batch, t), row by row; zeros (False) elsewhere."""
    return torch.zeros(where.shape, dtype=values.dtype, device=values.device).masked_scatter(where, values)


def last_real(real: Tensor) -> Tensor:
    """Place of the last token of each prompt that is no padding: (batch,)."""
    return (real * torch.arange(real.shape[1], device=real.device)).argmax(1)


def line(count: int) -> Tensor:
    """Places of consecutive tokens in one line: (count, 3)."""
    return torch.arange(count).float()[:, None] * torch.tensor([0, 0, 1])
