"""A forward pass that stops at some of the model's modules and waits.

    the model's own forward ─► a block is called ─► paused: the caller runs the block, as it likes and as
        often as it likes ─► the forward goes on with the output that it is given ─► the next block …

What the model does between its blocks is its own code, whatever it is: it adds features to the hidden states,
merges patches, fills a dictionary that later blocks read. Nothing of this is declared, traced or repeated.

The pass runs in a greenlet (a coroutine with a stack of its own, in the caller's thread), so torch's modes,
threads and random numbers are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from bivlm.trees import Change, mapped, same, tensors


@dataclass(frozen=True)
class BlockCall:
    """How the model calls the block at `path` for one sample: all arguments, hidden states included."""

    path: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def hidden(self) -> Tensor:
        """The hidden states that enter the block."""
        return hidden_of((self.args, dict(self.kwargs)))

    def run(self, block: nn.Module) -> Any:
        """What the block returns. A dictionary or list among the arguments that the block fills is filled: do
        this once, for the output with which the pass goes on.
        """
        return block(*self.args, **self.kwargs)

    def try_run(self, block: nn.Module) -> Tensor:
        """The hidden states that the block returns; the arguments stay as they are."""
        return hidden_of(self.mapped(same).run(block))

    def mapped(self, change: Change) -> BlockCall:
        """The call with every tensor changed, in dictionaries, lists and tuples of its own."""
        return replace(self, args=mapped(self.args, change), kwargs=mapped(dict(self.kwargs), change))


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a block returns, or is called with: the first tensor of floating-point
    numbers in it.
    """
    return next(value for _, value in tensors(output) if value.is_floating_point())


class PausedForward:
    """One forward pass, `run`, that stops wherever it calls a module that `stopping` has prepared.

    `call` is what it waits at, or None before the start and after the end; `result` is what `run` returned.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self._greenlet = greenlet(lambda _: run())
        self._greenlet.gr_context = copy_context()
        self._gradients: bool | None = None  # of the pass, which may switch them off for a part of it
        self.call: BlockCall | None = None
        self.result: Any = None

    @property
    def has_ended(self) -> bool:
        return self._greenlet.dead

    def resume(self, output: Any = None) -> None:
        """Start, or go on with `output` as what the module returned, up to the next stop or the end. Raises
        what the forward pass raises, and RuntimeError if it waits under another precision than its caller.
        """
        outside, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        if self._gradients is not None:
            torch.set_grad_enabled(self._gradients)
        try:
            found = self._greenlet.switch(output)
            self._gradients = torch.is_grad_enabled()
        finally:
            torch.set_grad_enabled(outside)
        self.call, self.result = (None, found) if self._greenlet.dead else (found, None)
        if torch.is_autocast_enabled("cpu") != autocast:
            raise RuntimeError(f"the model calls {found.path} under autocast, which cannot be paused")

    def close(self) -> None:
        """End the pass where it is."""
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.throw()
        self.call = None


@contextmanager
def stopping(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within this context paused passes stop at these modules, which are named by their paths. Their
    attributes and hooks stay.
    """
    with ExitStack() as patches:
        for path, module in modules.items():
            module.forward = _stop(path)
            patches.callback(module.__dict__.pop, "forward")
        yield


def _stop(path: str) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        parent = getcurrent().parent
        assert parent is not None, path
        return parent.switch(BlockCall(path, args, kwargs))

    return forward
