"""Dropping visual tokens in models with cross-attention: there are fewer keys and values, and the text does
not change.

The first cross-attention block from `layer` on decides. The tokens of padding tiles, to which no text can
attend, are no candidates and are always dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bivlm.cutting import Kept, hide
from bivlm.errors import InputError
from bivlm.pruning.dropping.cache import cache_in, kept_in, make_pruned
from bivlm.pruning.dropping.choose import choose
from bivlm.pruning.dropping.geometry import shape_of, token_places
from bivlm.pruning.dropping.language import language_blocks, last_real
from bivlm.pruning.dropping.received import attention_received
from bivlm.pruning.dropping.state import Call, decision_from

if TYPE_CHECKING:
    from bivlm.pruning.apply import TokenPruning


class CrossAttentionDrop:
    """The hooks on the cross-attention blocks of a language model."""

    def __init__(self, owner: TokenPruning) -> None:
        self.owner = owner
        blocks = language_blocks(owner)
        if owner.pruning.layer >= len(blocks):
            raise InputError(
                f"layer is {owner.pruning.layer}, and the language model has the blocks 0 to"
                f" {len(blocks) - 1}"
            )
        self.blocks = {
            index: block
            for index, block in enumerate(blocks)
            if hasattr(block, "cross_attn") and index >= owner.pruning.layer
        }
        places = [index for index, block in enumerate(blocks) if hasattr(block, "cross_attn")]
        if not places:
            raise InputError(
                f"dropping tokens is not offered for {owner.family.model_type}: its language model looks at"
                f" the image by a cross-attention that bivlm does not know ({type(blocks[0]).__name__} has no"
                " cross_attn)"
            )
        if not self.blocks:
            raise InputError(
                f"layer is {owner.pruning.layer}, and the language model looks at the image in blocks"
                f" {', '.join(map(str, places))} only"
            )

    def attach(self) -> Iterator[Any]:
        for index, block in self.blocks.items():
            yield block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True)

    def _before(
        self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call, cache, mask = self.owner.call, cache_in(kwargs), kwargs.get("cross_attention_mask")
        if call is None:
            return None
        states = kwargs.get("cross_attention_states")
        if states is None:
            kept = kept_in(cache, index)
            return None if kept is None else (args, {**kwargs, "cross_attention_mask": _cut(mask, kept)})
        states = states.reshape(len(args[0]), -1, states.shape[-1])
        if index == min(self.blocks) and call.decision is None:
            self._decide(call, block, args, kwargs, states)
        if call.decision is None:
            return None
        kept = call.decision.kept
        make_pruned(cache, index, kept)
        return args, {
            **kwargs,
            "cross_attention_states": kept.take(states, 1),
            "cross_attention_mask": _cut(mask, kept),
        }

    def _decide(
        self, call: Call, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], states: Tensor
    ) -> None:
        owner, real, scores = self.owner, call.real(), None
        candidates, tile = self._candidates(call, states)
        if owner.pruner.queries is not None:
            rows = last_real(real)[:, None] if owner.pruner.queries == "last" else None
            scores = attention_received(block, args, kwargs, tokens=states.shape[1], rows=rows, real=real)
        places = tuple(token_places([shape_of(tile)] * (int(count) // tile)) for count in candidates.sum(1))
        chosen = choose(owner.pruner, owner.pruning.keep, candidates, states, scores, places, call.seeds)
        owner.decided(decision_from(call, Kept.of(chosen), candidates, chosen))

    def _candidates(self, call: Call, states: Tensor) -> tuple[Tensor, int]:
        """The tokens (batch, n) to which some text can attend, and the number of tokens of a tile."""
        seen = call.inputs.get("cross_attention_mask")  # (batch, t, images, tiles)
        if seen is None:
            return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device), states.shape[1]
        tiles = seen.bool().any(1).flatten(1)
        tile = states.shape[1] // tiles.shape[1]
        return tiles.repeat_interleave(tile, dim=1), tile


def _cut(mask: Tensor | None, kept: Kept) -> Tensor | None:
    """A cross-attention mask (batch, 1, t, n) for the tokens that stay."""
    if mask is None:
        assert kept.real is None
        return None
    cut = kept.take(mask, -1)
    return cut if kept.real is None else hide(cut, kept.real, square=False)
