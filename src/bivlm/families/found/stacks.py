"""Stacks in a trace: lists of modules whose children run once each, in order, on states of one width."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from bivlm.families.base import are_blocks
from bivlm.families.found.tracing import Call, Trace


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
        if len(counts) != 1 or not are_blocks(module):
            continue
        if counts == {1}:
            calls = [trace.of(block)[0] for block in blocks]
            if _is_chain(calls):
                found.append(Seen(path, blocks, calls[0].start, calls[-1].end))
        elif counts != {0} and _is_chain([trace.of(block)[0] for block in blocks]):
            repeated.append(path)
    return sorted(found, key=lambda stack: stack.start), repeated


def _is_chain(calls: list[Call]) -> bool:
    """Whether blocks ran one after the other on states of one width. Between them a model may add features or
    merge tokens.
    """
    widths = {None if one is None else one.shape[-1] for call in calls for one in (call.entered, call.left)}
    in_order = all(earlier.end < later.start for earlier, later in pairwise(calls))
    return len(widths) == 1 and None not in widths and in_order and not _is_parallel(calls)


def _is_parallel(calls: list[Call]) -> bool:
    """Whether several blocks got the very same input: then they stand next to each other."""
    entered = [call.entered for call in calls if call.entered is not None]
    return len(entered) > 1 and all(
        one.shape == entered[0].shape and torch.equal(one, entered[0]) for one in entered[1:]
    )
