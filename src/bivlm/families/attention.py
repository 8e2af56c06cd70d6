"""Hearing what a block's attention is given, in every architecture that uses the attention functions of
transformers: for a while another function takes their place, so queries, keys, rotary embedding and mask are
the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

NAME = "bivlm_replaced"

# (module, query, key, value, mask, scaling, the other arguments) to (batch, heads, t, d); query, key and
# value are (batch, heads, t, d), with fewer heads for keys and values in some models
Attention = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None, float | None, dict[str, Any]], Tensor]

_functions: list[Attention] = []


def _replaced(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    found = _functions[-1](module, query, key, value, attention_mask, scaling, kwargs)
    return found.transpose(1, 2).contiguous(), None


@contextmanager
def attention_replaced(block: nn.Module, function: Attention) -> Iterator[None]:
    """Within this context the attention of `block` is `function`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _replaced)
    configs: dict[int, Any] = {
        id(module.config): module.config for module in block.modules() if hasattr(module, "config")
    }
    names = {identity: config._attn_implementation_internal for identity, config in configs.items()}
    for config in configs.values():
        config._attn_implementation_internal = NAME
    _functions.append(function)
    try:
        yield
    finally:
        _functions.pop()
        for identity, config in configs.items():
            config._attn_implementation_internal = names[identity]


def is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether each token attends to itself and those before it, where no mask says so."""
    return bool(kwargs.get("is_causal", getattr(module, "is_causal", False)))
