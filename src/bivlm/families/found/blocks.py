"""What is found inside the blocks: linears that cannot be packed, that see the image alone, or that share
their input; stacked experts; and the token that marks an image in a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bivlm.families.found.parts import Views
from bivlm.families.found.stacks import inside
from bivlm.families.found.structure import Kept, pattern_of
from bivlm.families.found.tracing import Trace
from bivlm.families.linears import is_linear

UNCALLED = "another module reads its weight, or it never runs"


def linears_below(model: nn.Module, path: str) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.get_submodule(path).named_modules():
        if isinstance(module, nn.Linear):
            yield (f"{path}.{name}" if name else path), module


def kept_inside(model: nn.Module, views: Views, paths: Sequence[str]) -> tuple[Kept, ...]:
    """The linears of blocks that are no plain linears, or that no block calls."""
    kept: dict[str, str] = {}
    called: set[str] = set()
    for path in paths:
        for name, module in linears_below(model, path):
            if not is_linear(module):
                kept[pattern_of(name)] = f"is a {type(module).__name__}, no plain linear"
            elif views.question.of(name) or views.other_question.of(name):
                called.add(pattern_of(name))
            else:
                kept.setdefault(pattern_of(name), UNCALLED)
    return tuple(
        Kept(pattern, reason)
        for pattern, reason in kept.items()
        if reason != UNCALLED or pattern not in called
    )


def visual_linears(model: nn.Module, views: Views, path: str) -> tuple[str, ...]:
    """The linears of a language block that see the image and no text: keys and values of cross-attention."""
    seen: dict[str, bool] = {}
    for name, _ in linears_below(model, path):
        if views.question.of(name):
            visual = views.changes_with_image(name) and not views.changes_with_text(name)
            inner = name.removeprefix(f"{path}.").partition(".")[2]
            seen[inner] = seen.get(inner, True) and visual
    return tuple(name for name, visual in seen.items() if visual)


def shared_inputs(model: nn.Module, trace: Trace, paths: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of linears that receive the very same tensor."""
    groups: dict[int, list[str]] = {}
    for path in paths:
        for name, _ in linears_below(model, path):
            if (call := trace.once(name)) is not None:
                groups.setdefault(call.identity, []).append(pattern_of(name))
    return tuple(dict.fromkeys(tuple(group) for group in groups.values() if len({*group}) > 1))


def experts(model: nn.Module, paths: Sequence[str]) -> tuple[str, ...]:
    """Parameters of blocks that hold a matrix for each of several experts."""
    return tuple(
        dict.fromkeys(
            pattern_of(name)
            for name, parameter in model.named_parameters()
            if parameter.ndim == 3
            and "expert" in name
            and min(parameter.shape[1:]) > 1
            and any(inside(name, path) for path in paths)
        )
    )


def image_token(views: Views, path: str, inputs: Mapping[str, Any], declared: int | None) -> int | None:
    """The token of the prompt at whose places another image changes what enters the first language block."""
    if views.other_image is None or "input_ids" not in inputs:
        return None
    one, other = views.question.once(f"{path}.0"), views.other_image.once(f"{path}.0")
    if one is None or other is None or one.entered is None or other.entered is None:
        return None
    if one.entered.shape != other.entered.shape:
        return declared
    ids: torch.Tensor = inputs["input_ids"][0]
    places = (one.entered != other.entered).any(-1)
    places = places.reshape(-1, places.shape[-1]).any(0)
    if places.shape != ids.shape:
        return declared if bool(places.any()) else None
    found = {*ids[places].tolist()}
    return declared if declared in found else next(iter(found)) if len(found) == 1 else None
