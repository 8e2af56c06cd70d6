"""Less memory for a backward pass, where it would take much.

A backward pass needs the inputs of every linear. Where they would take more than ACTIVATION_BYTES, a block
keeps its own input alone and is computed again when the backward pass reaches it (Chen et al., arXiv
1604.06174): a third more time, the same numbers. Where the decoded weights take more than WEIGHT_BYTES, they
are decoded at every use instead of once. Both depend on the model and the prompt alone, so the same job does
the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bivlm.adapters.lora import linears_of
from bivlm.families import Family
from bivlm.packed.module import packed_modules

ACTIVATION_BYTES = 1 << 30
WEIGHT_BYTES = 4 << 30


def decoded_bytes(model: nn.Module) -> int:
    """What the decoded weights of all packed modules take together."""
    return sum(
        module.rows * module.columns * module.compute_dtype.itemsize
        for module in packed_modules(model).values()
    )


def activation_bytes(model: nn.Module, tokens: int) -> int:
    """About what a backward pass keeps: the inputs and outputs of every linear, for `tokens` tokens, float32
    as an adapter reads them.
    """
    return 4 * tokens * sum(one.in_features + one.out_features for one in linears_of(model).values())


@contextmanager
def recomputed(model: nn.Module, family: Family, tokens: int) -> Iterator[None]:
    """Compute the model's blocks again in the backward pass, if a prompt of so many tokens needs it. The
    context is about the forward pass.
    """
    blocks: list[Any] = []
    if torch.is_grad_enabled() and activation_bytes(model, tokens) > ACTIVATION_BYTES:
        for stack in family.stacks:
            blocks += map(model.get_submodule, stack.block_paths(model))
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
