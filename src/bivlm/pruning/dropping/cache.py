"""A cache layer that holds fewer tokens than it has seen: to the model it is as long as the prompt was, so
positions and masks go on as before.

Where a module's arguments have the cache is said here too: transformers called it `past_key_values` up to
5.23, and calls it `cache` since.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from bivlm.cutting import Kept
from bivlm.errors import InputError

NAMES = ("cache", "past_key_values")


def cache_in(kwargs: Mapping[str, Any]) -> Cache | None:
    """The cache among the arguments of a model or a block; None when there is none."""
    return next((kwargs[name] for name in NAMES if kwargs.get(name) is not None), None)


def without_cache(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a block without the cache."""
    return {name: None if name in NAMES else value for name, value in kwargs.items()}


def cache_argument(model: nn.Module, cache: Cache) -> dict[str, Cache]:
    """The cache as the argument that a model's `forward` has for it."""
    return {next(name for name in NAMES if name in signature(model.forward).parameters): cache}


class PrunedLayer(DynamicLayer):
    """The keys and values of the tokens in `kept`; its length is that of the whole prompt and of all tokens
    generated after it.
    """

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self.kept = kept

    @property
    def dropped(self) -> int:
        return self.kept.length - self.kept.index.shape[1]

    def get_seq_length(self) -> int:
        stored = super().get_seq_length()
        return stored + self.dropped if stored else 0


def hold_all_tokens(cache: Cache) -> None:
    """Let the layers of an empty cache that would hold a sliding window hold all tokens, so that tokens can
    be dropped from them; the masks that the model makes keep the window.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer and not layer.is_initialized:
            cache.layers[index] = DynamicLayer()


def make_pruned(cache: Cache | None, layer: int, kept: Kept) -> None:
    """Let layer `layer` of an empty cache hold only the kept tokens. Raises InputError for a cache of another
    kind than transformers' dynamic one.
    """
    if cache is None:
        return
    while len(cache.layers) <= layer and cache.layer_class_to_replicate is not None:
        cache.layers.append(cache.layer_class_to_replicate())
    present = cache.layers[layer] if layer < len(cache.layers) else None
    if type(present) is not DynamicLayer and not isinstance(present, PrunedLayer):
        raise InputError(
            f"pruned tokens need a dynamic cache of full attention, and layer {layer} has a"
            f" {type(present).__name__}; leave cache_implementation out"
        )
    cache.layers[layer] = PrunedLayer(kept)


def kept_in(cache: Cache | None, layer: int) -> Kept | None:
    """The tokens that layer `layer` of a filled cache was pruned to; None if it was not pruned."""
    entries: list[Any] = [] if cache is None else cache.layers
    present = entries[layer] if layer < len(entries) else None
    return present.kept if isinstance(present, PrunedLayer) and present.is_initialized else None


def cache_bytes(cache: Cache) -> int:
    """Bytes of the keys and values that a cache holds."""
    held: list[Tensor | None] = [
        getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)
