"""A slow definition of pruning, written without the code under test: the whole model runs at full length, and
an attention function of its own hides the dropped tokens from everyone but themselves, from one block on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@contextmanager
def hidden_tokens(model: Any, blocks: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Within this context `model` uses eager attention, and in each of `blocks` the keys where the mask
    (batch, n) is True are visible only to themselves.
    """
    hidden = {id(inner): mask for block, mask in blocks.items() for inner in block.modules()}
    windows: dict[int, int] = {}

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        **rest: Any,
    ) -> tuple[Tensor, None]:
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(-1, -2) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        columns = hidden.get(id(module))
        if columns is not None:
            start = windows.get(id(module), 0)  # a block that is called window by window
            windows[id(module)] = (start + key.shape[2]) % columns.shape[1]
            cut = columns[:, None, None, start : start + key.shape[2]]
            if query.shape[2] == key.shape[2]:
                cut = cut & ~torch.eye(key.shape[2], dtype=torch.bool)
            scores = scores.masked_fill(cut, -1e30)
        values = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        return (scores.softmax(-1) @ values).transpose(1, 2).contiguous(), None

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    ALL_ATTENTION_FUNCTIONS["eager"] = attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["eager"]
        model.set_attn_implementation(before)
