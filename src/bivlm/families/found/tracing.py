"""Watching a forward pass: which module ran when, on what, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from bivlm.trees import first_tensor

HIDDEN = ("hidden_states", "hidden_state", "x", "inputs_embeds", "input", "image_features", "pixel_values")


@dataclass(frozen=True)
class Call:
    """One call of a module: when it began and ended (in events), the first tensor that entered it and the
    first that left it (of blocks in lists alone); which tensor object entered, and a checksum of the
    one that left.
    """

    start: int
    end: int
    entered: Tensor | None
    left: Tensor | None
    identity: int
    made: int


@dataclass
class Trace:
    """The calls of every module in one forward pass, by the module's name, and the pass's logits."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    output: Tensor | None = None

    def of(self, name: str) -> list[Call]:
        return self.calls.get(name, [])

    def once(self, name: str) -> Call | None:
        """The call of a module that ran exactly once."""
        calls = self.of(name)
        return calls[0] if len(calls) == 1 else None


def _checksum(tensor: Tensor | None) -> int:
    return 0 if tensor is None else crc32(tensor.detach().reshape(-1).contiguous().numpy().tobytes())


def entering(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The hidden states among a module's arguments: the first one, or one of the usual names."""
    if args and (found := first_tensor(args[0])) is not None:
        return found
    named = [kwargs[name] for name in HIDDEN if isinstance(kwargs.get(name), Tensor)]
    floats = [one for one in kwargs.values() if isinstance(one, Tensor) and one.is_floating_point()]
    return next(iter([*named, *floats]), None)


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes an argument of this name."""
    parameters = signature(function).parameters
    return name in parameters or any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())


def run(model: Any, inputs: Mapping[str, Any]) -> Tensor | None:
    """The first tensor of the model's output (the logits), without a cache."""
    named = signature(model.forward).parameters
    short = {"logits_to_keep": 1} if "logits_to_keep" in named else {}
    cache = {"use_cache": False} if accepts(model.forward, "use_cache") else {}
    with torch.inference_mode():
        output = model(**inputs, **cache, **short)
    return first_tensor(getattr(output, "logits", output))


def watch(model: nn.Module, inputs: Mapping[str, Any]) -> Trace:
    """Run the model once and note every call. Tensors are copied, for a model may change them in place."""
    trace, clock = Trace(), [0]
    begun: dict[str, list[tuple[int, Tensor | None, int]]] = {}
    alive = []  # so that no two tensors have the same identity

    def tick() -> int:
        clock[0] += 1
        return clock[0]

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = entering(args, kwargs)
            alive.append(tensor)
            copied = None if tensor is None else tensor.detach().clone()
            begun.setdefault(name, []).append((tick(), copied, id(tensor)))

        return hook

    def after(name: str, keep: bool) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            start, entered, identity = begun[name].pop()
            tensor = first_tensor(output)
            left = None if tensor is None or not keep else tensor.detach().clone()
            call = Call(start, tick(), entered, left, identity, _checksum(tensor))
            trace.calls.setdefault(name, []).append(call)

        return hook

    lists = {
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
    }
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not name:
                continue
            keep = name.rpartition(".")[0] in lists
            for handle in (
                module.register_forward_pre_hook(before(name), with_kwargs=True),
                module.register_forward_hook(after(name, keep), with_kwargs=True),
            ):
                hooks.callback(handle.remove)
        trace.output = run(model, inputs)
    return trace
