"""The one place where tokens are dropped from a running model: by hooks, on an otherwise unchanged model.

    model(…) ── what the prompt is: its visual tokens, its past ──┐
    vision tower ─ tower.py ─ site "vision": patches leave here    │   Call: one forward pass
    language blocks ─ language.py (or cross.py) ─ decide once,     │   Decision: what stays, for good
        at prefill; from there on hidden states, positions, masks ─┘
        and cache hold the tokens that stay                           (all of them in dropping/)

A decision is made when a prompt is first read, and holds for everything after it. With a cache it is stored
next to the pruned keys and values. Without a cache it is found again when a call repeats the prompt, image
included, with more tokens after it. Kept tokens keep their positions, so the generated tokens are those of
the whole model with the dropped tokens masked from that block on.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.families import Family, family_of
from bivlm.families.prompts import name_of
from bivlm.families.videos import PIXELS as VIDEO_PIXELS
from bivlm.pruning.base import Pruner
from bivlm.pruning.dropping.cache import cache_in
from bivlm.pruning.dropping.cross import CrossAttentionDrop
from bivlm.pruning.dropping.geometry import dealt, runs, shape_of, token_places
from bivlm.pruning.dropping.language import LanguageDrop
from bivlm.pruning.dropping.state import Call, Decision, Encoding, pixels_in
from bivlm.pruning.dropping.tower import TowerDrop, TowerWatch
from bivlm.pruning.settings import Pruning, parse_pruning
from bivlm.types import Sample

logger = logging.getLogger(__name__)

NO_VIDEOS = (
    "dropping visual tokens is not offered for videos in this model; ask without it (--prune none), or give"
    " the frames as images (--image for each)"
)
ENCODE = "get_image_features"  # transformers' name for: pixels in, visual tokens out


def prune(
    model: nn.Module,
    pruning: str | Mapping[str, Any] | Pruning | None,
    *,
    pruner: Pruner | None = None,
    on_decision: Callable[[Decision], None] | None = None,
) -> None:
    """Let the model drop tokens as `pruning` says from now on ("attention:layer=2,keep=0.25"), in place of
    any earlier setting; None keeps all.

    The model is changed by hooks alone; `generate`, `forward` and saving work as before. The output has
    logits for the tokens that stay, in their order. For studies, `pruner` replaces the pruner that is named,
    and `on_decision` receives every decision. Raises InputError for a block that the model does not have, or
    a site or pruner that its architecture does not support.
    """
    wanted = None if pruning is None else TokenPruning(model, parse_pruning(pruning), pruner, on_decision)
    active = active_pruning(model)
    if active is not None:
        active.detach()
    if wanted is not None:
        wanted.attach()


def check_prunable(model: nn.Module, samples: Iterable[Sample]) -> None:
    """InputError, naming the sample, for a question about a video to a model that drops tokens and could not
    drop those of videos: their frames are not encoded as images are.
    """
    active = active_pruning(model)
    if active is None or active.pruning.keep == 1 or VIDEO_PIXELS not in active.family.arguments:
        return
    filmed = next((sample for sample in samples if sample.videos), None)
    if filmed is not None:
        raise InputError(f"{name_of(filmed)}: {NO_VIDEOS}")


def active_pruning(model: nn.Module) -> TokenPruning | None:
    """The pruning that `prune` has set; its `last` is the latest decision."""
    return getattr(model, "_bivlm_pruning", None)


class TokenPruning:
    """The hooks of one pruning on one model. `last` is the latest decision, None before the first and when
    nothing was dropped.
    """

    def __init__(
        self,
        model: Any,
        pruning: Pruning,
        pruner: Pruner | None = None,
        on_decision: Callable[[Decision], None] | None = None,
    ) -> None:
        self.model, self.pruning = model, pruning
        self.pruner = pruning.build() if pruner is None else pruner
        self.on_decision = on_decision
        self.family: Family = family_of(model.config)
        self.last: Decision | None = None
        self.call: Call | None = None
        self.encoding: Encoding | None = None
        self._handles: list[Any] = []
        self._told = False
        self.drops = list(self._drops())

    def _drops(self) -> Iterator[TowerDrop | TowerWatch | CrossAttentionDrop | LanguageDrop]:
        cross = any(stack.visual_linears for stack in self.family.stacks)
        site = self.pruning.site
        if cross and self.pruning.tokens == "text":
            raise InputError(
                f"{self.family.model_type} has no visual tokens in its prompt; dropping text tokens is not"
                " offered for it"
            )
        if site == "vision":
            yield TowerDrop(self)
        elif site == "input" and self.pruner.queries is not None:
            yield TowerWatch(self)
        yield CrossAttentionDrop(self) if cross else LanguageDrop(self)

    def attach(self) -> None:
        if self.pruning.keep < 1:
            self._handles = [
                self.model.register_forward_pre_hook(self._enter, with_kwargs=True),
                self.model.register_forward_hook(self._leave, always_call=True),
                *(handle for drop in self.drops for handle in drop.attach()),
            ]
            self._watch_encoder()
        self.model._bivlm_pruning = self

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        vars(self.model.base_model).pop(ENCODE, None)
        del self.model._bivlm_pruning

    def decided(self, decision: Decision) -> None:
        assert self.call is not None
        self.call.decision = self.last = decision
        if self.on_decision is not None:
            self.on_decision(decision)

    def _watch_encoder(self) -> None:
        """Record every run of the vision tower: `get_image_features` is no module, so it gets a wrapper
        instead of a hook.
        """
        encode = getattr(self.model.base_model, ENCODE, None)
        if encode is None:
            return
        parameters = signature(encode)

        @wraps(encode)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.encoding = Encoding(parameters.bind(*args, **kwargs).arguments)
            self.encoding.output = encode(*args, **kwargs)
            return self.encoding.output

        setattr(self.model.base_model, ENCODE, noted)

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what this call reads."""
        self.call = None
        ids, pixels = kwargs.get("input_ids", args[0] if args else None), pixels_in(kwargs)
        encoders = kwargs.get("mm_encoder_outputs") or {}
        if kwargs.get(VIDEO_PIXELS) is not None or encoders.get("video") is not None:
            raise InputError(NO_VIDEOS)
        encoded = encoders.get("image")
        cache = cache_in(kwargs)
        past = 0 if cache is None else int(cache.get_seq_length())
        if past:
            self.call = Call(kwargs, past)
            return
        if ids is None:
            self._tell(
                "the model was called with embeddings instead of token ids, so its visual tokens are not"
                " known: nothing is pruned"
            )
            return
        visual = self.family.visual_mask(self.model.config, ids)
        if (pixels is None and encoded is None) or (
            self.family.image_token_id(self.model.config) is not None and not bool(visual.any())
        ):
            self._tell("the prompt holds no image: nothing is pruned")
            return
        if encoded is None:
            self.encoding = None  # made anew within this call
        elif self.encoding is None or self.encoding.output is not encoded:
            self.encoding = Encoding({}, encoded)
        self._read(ids, visual, kwargs, pixels)

    def _read(self, ids: Tensor, visual: Tensor, kwargs: Mapping[str, Any], pixels: Tensor | None) -> None:
        """Handle a prompt that is read whole: either one with a decision already, or a new one."""
        inputs = {**(self.encoding.inputs if self.encoding is not None else {}), **kwargs}
        image = pixels if pixels is not None else pixels_in(inputs)
        if image is None:
            assert self.encoding is not None
            image = torch.cat(
                list(self.encoding.output.pooler_output)
            )  # encoded elsewhere: identified by its features
        self.call = Call(inputs, 0, visual, places=self._places(visual, inputs))
        # padding is no part of a prompt: in any batch it has the same seed
        self.call.seeds = tuple(
            zlib.crc32(row[real].cpu().numpy().tobytes())
            for row, real in zip(ids, self.call.real(), strict=True)
        )
        if self.last is not None and self.last.goes_on(ids, image):
            self.call.decision = self.last
        else:
            self.last = None
            self.call.prompt = (ids, image)

    def _leave(self, *_: Any) -> None:
        self.call = None

    def _places(self, visual: Tensor, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The places of each prompt's visual tokens."""
        counts = visual.sum(1).tolist()
        known = (
            None if self.family.token_grids is None else self.family.token_grids(self.model.config, inputs)
        )
        shapes = None if known is None else dealt(known, counts)
        if shapes is None:
            shapes = [[shape_of(count) for count in runs(row)] for row in visual]
        return tuple(token_places(row) for row in shapes)

    def _tell(self, what: str) -> None:
        if not self._told:
            logger.warning(what)
            self._told = True


def describe(model: nn.Module) -> str | None:
    """The active pruning in words; None without one."""
    active = active_pruning(model)
    return None if active is None else str(active.pruning)
