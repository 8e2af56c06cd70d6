"""Building a model without memory for its weights.

accelerate moves each parameter to the meta device when a module registers it. Until then it has memory, and
the experts of one layer, a single parameter, are many gigabytes in the largest models: an allocation that
fails on a machine that needs none of it. So a large `torch.empty`, which holds nothing yet, is on the meta
device from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from accelerate import init_empty_weights
from torch.overrides import TorchFunctionMode

LARGE = 1 << 22  # values


class _Unallocated(TorchFunctionMode):
    """`torch.empty` of a large size makes a tensor on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty and prod(_size(args, given)) >= LARGE:
            given["device"] = "meta"
        return func(*args, **given)


def _size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    size = args or (kwargs.get("size", ()),)
    return tuple(size[0]) if isinstance(size[0], list | tuple) else size


@contextmanager
def no_weights() -> Iterator[None]:
    """Within this context models are built with all parameters on the meta device, and with all computed
    buffers (rotary frequencies and the like) in memory.
    """
    with init_empty_weights(include_buffers=False), _Unallocated():
        yield
