"""Caches of keys and values of a batch: rows that join, and rows that leave.

Rows are aligned at their ends: (n, heads, tokens, width) with the newest token last and nothing before the
first one of a short row. What stands there is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


def is_joinable(cache: Any) -> bool:
    """Whether every layer keeps plain keys and values, so that rows of two caches fit together."""
    return isinstance(cache, DynamicCache) and all(type(layer) in JOINABLE for layer in cache.layers)


def tokens_in(cache: DynamicCache) -> int:
    """How many tokens a cache has seen, the filling before short rows included."""
    return max(layer.get_seq_length() for layer in _layers(cache))


def join(cache: DynamicCache, other: DynamicCache) -> None:
    """Add the rows of `other` below those of `cache`, whichever is longer."""
    for mine, its in zip(_layers(cache), _layers(other), strict=True):
        mine.keys, mine.values = _stacked(mine.keys, its.keys), _stacked(mine.values, its.values)
        if isinstance(mine, DynamicSlidingWindowLayer):
            mine.cumulative_length = max(mine.cumulative_length, its.cumulative_length)


def keep(cache: DynamicCache, rows: Sequence[int], unused: int) -> None:
    """Keep these rows only, and drop the first `unused` tokens, which are filling in all of them."""
    for layer in _layers(cache):
        keys, values, dropped = layer.keys, layer.values, unused
        index = torch.tensor(rows, dtype=torch.int64, device=keys.device)
        if isinstance(layer, DynamicSlidingWindowLayer):  # some of them have left the window already
            dropped = max(0, unused - (layer.cumulative_length - keys.shape[-2]))
            layer.cumulative_length -= unused
        layer.keys, layer.values = keys[index, :, dropped:], values[index, :, dropped:]


def _layers(cache: DynamicCache) -> list[Any]:
    """The layers with keys of their own; the others read those of an earlier one."""
    return [layer for layer in cache.layers if not isinstance(layer, DummyLayer)]


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Both (n, heads, tokens, width), one below the other, aligned at their last tokens."""
    longest = max(first.shape[-2], second.shape[-2])
    return torch.cat([pad(one, (0, 0, longest - one.shape[-2], 0)) for one in (first, second)])
