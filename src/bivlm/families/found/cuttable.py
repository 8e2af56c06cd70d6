"""Whether sequences can be cut to some of their patches inside the tower of a small model.

Each block runs twice, on all patches and on some of them, with an attention that lets each patch see itself
alone. The results of the patches that stay must be the same: then nothing but attention brings patches
together, and what else the block receives is cut as it should be. And attention must be given the cut mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.cutting import Kept, hidden_and_named
from bivlm.families.attention import attention_replaced
from bivlm.families.found.tracing import run
from bivlm.trees import first_tensor

CLOSE = 1e-4  # what another size of a matrix product may change


@dataclass
class _Own:
    """An attention in which each token sees itself alone; it notes the masks, and whether it is `plain`:
    within one sequence, and given nothing else about its tokens.
    """

    masks: list[Tensor | None] = field(default_factory=list)
    plain: bool = True

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        kwargs: dict[str, Any],
    ) -> Tensor:
        self.masks.append(mask)
        shared = query.shape[1] // key.shape[1]
        if query.shape[2] != key.shape[2] or any(_is_table(one) for one in kwargs.values()):
            self.plain = False
            return query
        seen = (query.sum(-1, keepdim=True) + key.sum(-1, keepdim=True).repeat_interleave(shared, 1)).tanh()
        return value.repeat_interleave(shared, 1) + seen


def _is_table(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1


def can_be_cut(model: Any, blocks: Sequence[nn.Module], inputs: Mapping[str, Any]) -> bool:
    """Whether patches can leave before any of the blocks, and be zeros between them."""
    calls: list[tuple[Any, Any, Any]] = []
    with ExitStack() as hooks:
        for block in blocks:
            handle = block.register_forward_hook(
                lambda _, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
            )
            hooks.callback(handle.remove)
        run(model, inputs)
    if len(calls) != len(blocks):
        return False
    entered = [hidden_and_named(block, *call[:2])[0] for block, call in zip(blocks, calls, strict=True)]
    left = [first_tensor(call[2]) for call in calls]
    follows = all(_equal(one, other) for one, other in zip(left, entered[1:], strict=False))
    alike = all(one.shape == other.shape for one, other in pairwise(entered))
    return (
        follows
        and alike
        and entered[0].ndim in (2, 3)
        and all(_is_set(block, *call[:2]) for block, call in zip(blocks, calls, strict=True))
    )


def _equal(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and bool(torch.equal(one, other))


@torch.inference_mode()
def _is_set(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a block computes for some of the patches what it computes for all."""
    hidden, named = hidden_and_named(block, args, kwargs)
    flat = hidden.ndim == 2
    rows, count = (1, *hidden.shape)[-3:-1]
    stay = torch.arange(count) % 3 > 0
    kept = Kept.of(torch.stack([stay.roll(row) for row in range(rows)]))  # others in every row
    whole, some = _Own(), _Own()
    with attention_replaced(block, whole):
        expected = first_tensor(block(hidden, **named))
    fewer = kept.take(hidden.view(rows, count, -1), 1)
    try:
        with attention_replaced(block, some):
            found = first_tensor(block(fewer[0] if flat else fewer, **kept.patch_arguments(named)))
    except Exception:  # the block of unknown code takes no other number of patches
        return False
    if expected is None or found is None or not (whole.plain and some.plain and whole.masks):
        return False
    expected = kept.take(expected.reshape(rows, count, -1), 1)
    found = found.reshape(1, *found.shape) if flat else found
    close = expected.shape == found.shape and bool(torch.allclose(expected, found, CLOSE, CLOSE))
    return close and _are_cut(whole.masks, some.masks, kept)


def _are_cut(whole: list[Tensor | None], some: list[Tensor | None], kept: Kept) -> bool:
    """Whether the masks of attention are those of the patches that stay. Without masks a sequence may have
    lost some of its windows, in each of which attention is called.
    """
    if all(mask is None for mask in (*whole, *some)):
        return True
    return len(whole) == len(some) and all(
        one is not None
        and other is not None
        and one.ndim in (2, 4)
        and _equal(kept.attention_mask(one, kept.length, 0), other)
        for one, other in zip(whole, some, strict=True)
    )
