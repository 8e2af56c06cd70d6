"""A block that computes on a card, in a model that is on the CPU.

    its weights go to the card ─► at every call its arguments go there, and what it returns comes back

So the activations of the samples wait in the CPU's memory, and the card holds one block, what it computes
with, and the statistics that are collected while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.trees import change_in_place

CPU = torch.device("cpu")


@contextmanager
def placed(block: nn.Module, device: torch.device) -> Iterator[None]:
    """Within this context a block computes on a device: whoever calls it gives it tensors on the CPU and gets
    tensors on the CPU. Dictionaries and lists among the arguments stay the same objects, so that a block may
    fill them. On the CPU nothing is done.
    """
    if device == CPU:
        yield
        return
    bring(block, device)
    there, back = partial(_moved, device=device), partial(_moved, device=CPU)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return change_in_place(args, there), change_in_place(kwargs, there)

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        change_in_place(args, back)
        change_in_place(kwargs, back)
        return change_in_place(output, back)

    handles = [
        block.register_forward_pre_hook(before, with_kwargs=True),
        block.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        bring(block, CPU)


def bring(block: nn.Module, device: torch.device) -> None:
    """Put what a block has in memory on a device; parameters without memory stay so."""
    for module in block.modules():
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None and not tensor.is_meta and tensor.device != device:
                    tensor.data = tensor.data.to(device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)
