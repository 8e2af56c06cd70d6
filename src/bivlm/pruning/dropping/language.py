"""Dropping tokens inside the language model: from one block on the sequence is shorter, and so are cache,
positions and masks.

The deciding block chooses by its input. This block and all later ones get shorter hidden states, positions
and masks, and a cache layer that records which tokens it holds (cache.py). After each block the sequence has
its whole length again, with zeros for what was dropped, since some models add visual features there
(Qwen3-VL). What the module around the blocks returns is short.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bivlm.cutting import Kept, hidden_and_named
from bivlm.errors import InputError
from bivlm.pruning.dropping.cache import cache_in, hold_all_tokens, kept_in, make_pruned
from bivlm.pruning.dropping.choose import choose
from bivlm.pruning.dropping.received import attention_received
from bivlm.pruning.dropping.state import Call, Encoding, decision_from
from bivlm.trees import mapped

if TYPE_CHECKING:
    from bivlm.pruning.apply import TokenPruning


class LanguageDrop:
    """The hooks on the language blocks of a model whose visual tokens are in the prompt."""

    def __init__(self, owner: TokenPruning) -> None:
        self.owner = owner
        self.blocks, self.around = language_blocks(owner), _around_blocks(owner)
        self.first = owner.pruning.layer if owner.pruning.site == "language" else 0
        _check_blocks(owner)
        if self.first >= len(self.blocks):
            raise InputError(
                f"layer is {self.first}, and the language model has the blocks 0 to {len(self.blocks) - 1}"
            )

    def attach(self) -> Iterator[Any]:
        yield self.blocks[0].register_forward_pre_hook(self._enter, with_kwargs=True)
        for index, block in enumerate(self.blocks):
            if index >= self.first:
                yield block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True)
                yield block.register_forward_hook(self._after)
        yield self.around.register_forward_hook(self._leave)

    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The first block of a prompt: the cache is empty."""
        call, cache = self.owner.call, cache_in(kwargs)
        if call is not None and not call.past and cache is not None:
            hold_all_tokens(cache)

    def _before(
        self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = self.owner.call
        if call is None:
            return None
        cache, (hidden, named) = cache_in(kwargs), hidden_and_named(block, args, kwargs)
        if call.past:
            kept = kept_in(cache, index)
            return (
                None if kept is None else ((hidden,), kept.call_arguments(named, hidden.shape[1], call.past))
            )
        if index == self.first and call.decision is None:
            self._decide(call, block, args, kwargs, hidden)
        if call.decision is None:
            return None
        assert call.visual is not None
        count = call.visual.shape[1]
        kept = call.decision.kept.grown(count)
        make_pruned(cache, index, kept)
        return (kept.take(hidden, 1),), kept.call_arguments(named, count, 0)

    def _after(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        call = self.owner.call
        if call is None or call.past or call.decision is None:
            return None
        assert call.visual is not None
        kept = call.decision.kept.grown(call.visual.shape[1])
        hidden = output[0] if isinstance(output, tuple) else output
        whole = kept.put_back(hidden)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    def _leave(self, around: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Only the tokens that stay, of all states that the language model returns."""
        call = self.owner.call
        if call is None or call.past or call.decision is None:
            return None
        assert call.visual is not None
        shape = call.visual.shape
        kept = call.decision.kept.grown(shape[1])
        return mapped(output, lambda one: kept.take(one, 1) if one.shape[:2] == shape else one)

    def _decide(
        self,
        call: Call,
        block: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        hidden: Tensor,
    ) -> None:
        real, candidates = call.real(), self._candidates(call)
        if self.owner.pruning.site == "vision":
            noted = self._noted(call)
            assert noted.stays is not None
            chosen = _laid_out(candidates, noted.stays)
        else:
            chosen = self._choose(call, candidates, real, block, args, kwargs, hidden)
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
        hidden: Tensor,
    ) -> Tensor:
        owner, scores = self.owner, None
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


def _check_blocks(owner: TokenPruning) -> None:
    """InputError for a language model from whose blocks no token can be taken away."""
    config, name = owner.model.config.get_text_config(), owner.family.model_type
    if getattr(owner.model.config, "is_encoder_decoder", False):
        raise InputError(
            f"dropping tokens is not offered for {name}: a decoder reads all that its encoder makes of the"
            " prompt"
        )
    if owner.pruning.tokens == "image" and owner.family.image_token_id(owner.model.config) is None:
        raise InputError(
            f"dropping visual tokens is not offered for {name}: no token of its prompt stands for a part of"
            " an image"
        )
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others:
        raise InputError(
            f"dropping tokens is not offered for {name}: some of its blocks have no keys and values that"
            f" could be dropped ({', '.join(sorted(others))})"
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise InputError(
            f"dropping tokens is not offered for this {name}: its last {config.num_kv_shared_layers} blocks"
            " read the keys and values of earlier ones"
        )


def language_blocks(owner: TokenPruning) -> list[nn.Module]:
    return list(owner.model.get_submodule(_language_path(owner)))


def _language_path(owner: TokenPruning) -> str:
    return next(stack.path for stack in owner.family.stacks if stack.part == "language")


def _around_blocks(owner: TokenPruning) -> nn.Module:
    """The innermost module around the language blocks that runs: a list or a dictionary of modules does
    not.
    """
    path = _language_path(owner)
    while path:
        path = path.rpartition(".")[0]
        module = owner.model.get_submodule(path)
        if not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            return module
    return owner.model


def _laid_out(where: Tensor, values: Tensor) -> Tensor:
    """`values` (m,) at the m places of the mask `where` (batch, t), row by row; zeros (False) elsewhere."""
    return torch.zeros(where.shape, dtype=values.dtype, device=values.device).masked_scatter(where, values)


def last_real(real: Tensor) -> Tensor:
    """Place of the last token of each prompt that is no padding: (batch,)."""
    return (real * torch.arange(real.shape[1], device=real.device)).argmax(1)


def line(count: int) -> Tensor:
    """Places of consecutive tokens in one line: (count, 3)."""
    return torch.arange(count).float()[:, None] * torch.tensor([0, 0, 1])
