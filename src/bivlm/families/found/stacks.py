"""Stacks in a trace: lists of modules whose children run once each, in order, on hidden states of one
width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bivlm.families.found.tracing import Call, Trace

KINDS_OF_BLOCKS = 2  # classes in one stack (Llama-3.2-Vision has two)


@dataclass(frozen=True)
class Seen:
    """A stack in the small model: its path, the paths of its blocks, and when the first began and the last
    ended.
    """

    path: str
    blocks: tuple[str, ...]
    start: int
    end: int


def inside(name: str, path: str) -> bool:
    """Whether a module is at or below a path."""
    return name == path or name.startswith(f"{path}.")


def has_linear(module: nn.Module) -> bool:
    return any(isinstance(child, nn.Linear) for child in module.modules())


def find_stacks(model: nn.Module, trace: Trace) -> tuple[list[Seen], list[str]]:
    """The stacks, in the order in which the model runs them; and the paths of lists that would be stacks if
    their blocks did not run several times.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) and has_linear(module)
    ]
    found: list[Seen] = []
    repeated: list[str] = []
    for path, module in sorted(lists, key=lambda item: item[0].count(".")):
        if any(inside(path, other.path) for other in found) or any(inside(path, one) for one in repeated):
            continue
        blocks = tuple(f"{path}.{index}" for index in range(len(module)))
        counts = {len(trace.of(block)) for block in blocks}
        if len(counts) != 1 or not _alike(module):
            continue
        if counts == {1}:
            calls = [trace.of(block)[0] for block in blocks]
            if _is_chain(calls):
                found.append(Seen(path, blocks, calls[0].start, calls[-1].end))
        elif counts != {0} and _is_chain([trace.of(block)[0] for block in blocks]):
            repeated.append(path)
    return sorted(found, key=lambda stack: stack.start), repeated


def _alike(module: nn.ModuleList | nn.Sequential) -> bool:
    """Whether all children are blocks with linears, and of few classes; a row of bare linears is no stack."""
    children = [*module]
    return (
        len({type(child) for child in children}) <= KINDS_OF_BLOCKS
        and all(has_linear(child) for child in children)
        and not any(isinstance(child, nn.Linear) for child in children)
    )


def _is_chain(calls: list[Call]) -> bool:
    """Whether blocks ran one after the other, each on what the one before made, or on that with something
    added to it.
    """
    entered = [call.entered for call in calls]
    left = [call.left for call in calls]
    if any(one is None for one in (*entered, *left)):
        return False
    if any(later.start < earlier.end for earlier, later in zip(calls, calls[1:], strict=False)):
        return False
    pairs = [
        (before, after)
        for before, after in zip(left, entered[1:], strict=False)
        if before is not None and after is not None
    ]
    if not all(
        a is not None and b is not None and a.shape[-1] == b.shape[-1]
        for a, b in zip(entered, left, strict=True)
    ):
        return False
    return all(_follows(before, after) for before, after in pairs) and not _is_parallel(entered)


def _follows(before: Tensor, after: Tensor) -> bool:
    return before.shape[-1] == after.shape[-1]


def _is_parallel(entered: list[Tensor | None]) -> bool:
    """Whether several blocks got the very same input: then they stand side by side."""
    first = entered[0]
    return len(entered) > 1 and all(
        one is not None and first is not None and one.shape == first.shape and torch.equal(one, first)
        for one in entered[1:]
    )
