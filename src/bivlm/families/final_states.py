"""The hidden states of a prompt after the last norm: what the language head reads, without the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bivlm.errors import InputError


def final_states(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The hidden states (n, t, d) of every token, after the final norm (hidden_states[-1] of transformers).

    The model's own base runs (`base_model`), so a head over the vocabulary costs nothing, and a model without
    one will do. Raises InputError for a model whose base does not return hidden states.
    """
    return states_of(model, model.base_model(**inputs, use_cache=False), inputs["attention_mask"])


def states_of(model: Any, output: Any, mask: Tensor) -> Tensor:
    """The hidden states (n, t, d) in what a model's base has returned for prompts with an attention mask
    (n, t). Raises InputError if it has none.
    """
    hidden = getattr(output, "last_hidden_state", None)
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[:2] != mask.shape:
        raise InputError(
            f"{type(model).__name__} does not return the hidden states of its tokens, so it gives no"
            " embeddings"
        )
    return hidden
