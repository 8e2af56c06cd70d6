"""The linears outside the stacks: projectors, and what stays in full precision, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from bivlm.families.base import block_paths
from bivlm.families.found.parts import Views, branch_of, has_effect, outermost
from bivlm.families.found.stacks import Seen, inside
from bivlm.families.found.structure import Kept, pattern_of
from bivlm.families.found.tracing import Trace
from bivlm.types import PartName

TABLE = "the token embedding, or the language head"
PIXELS = "reads the pixels: a patch embedding"
UNREAD = "nothing reads what it computes"
NEVER = "does not run when a question about an image is asked"
TEXT = "outside the stacks, and sees text"
CONSTANT = "does not depend on image or text"


@dataclass(frozen=True)
class Around:
    """Projectors by path, with their part and the time at which they begin; and what is kept."""

    projectors: Mapping[str, tuple[PartName, int]]
    kept: tuple[Kept, ...]


def tables(model: Any) -> tuple[str, ...]:
    """The names of token embedding and language head."""
    try:
        ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    except NotImplementedError:  # some encoder-decoders
        return ()
    return tuple(
        name
        for name, module in model.named_modules()
        if any(module is end for end in ends if end is not None)
    )


def find_around(
    model: Any, views: Views, stacks: Sequence[Seen], parts: Mapping[str, PartName], inputs: Mapping[str, Any]
) -> Around:
    """Sort the linears that are in no stack."""
    ends = tables(model)
    foreign = [*ends, *(stack.path for stack in stacks)]
    reasons: dict[str, str] = dict.fromkeys(ends, TABLE)
    if "vision" not in parts.values():  # no tower: the pixels enter through linears
        pixels = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and views.reads_pixels(name)
        ]
        reasons |= dict.fromkeys(pixels, PIXELS)
        foreign += pixels
    projectors: dict[str, tuple[PartName, int]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or any(inside(name, path) for path in foreign):
            continue
        path = outermost(model, name, views.question, foreign)
        if path in projectors:
            continue
        reason = _reason(model, path, views, stacks, parts)
        if reason is None and not has_effect(model, path, inputs, views.question.output):
            reason = UNREAD
        if reason is None:
            calls = [views.question.of(block) for block in block_paths(model, path)]
            seen = any(part == "vision" for part in parts.values())
            projectors[path] = ("projector" if seen else "vision", min(one[0].start for one in calls if one))
        else:
            reasons[name] = reason
    return Around(
        projectors, _collapsed(model, reasons, [*ends, *(stack.path for stack in stacks), *projectors])
    )


def _reason(
    model: nn.Module, path: str, views: Views, stacks: Sequence[Seen], parts: Mapping[str, PartName]
) -> str | None:
    """Why a module stays in full precision; None for a projector."""
    trace: Trace = views.question
    blocks = block_paths(model, path)
    if not any(trace.of(block) for block in blocks):
        return NEVER
    if any(map(views.changes_with_text, blocks)):
        return TEXT
    if not any(map(views.changes_with_image, blocks)):
        return CONSTANT
    start = min(trace.of(block)[0].start for block in blocks if trace.of(block))
    towers = [stack for stack in stacks if parts[stack.path] == "vision"]
    paths = [stack.path for stack in stacks]
    for number, tower in enumerate(towers):
        own = number == 0 or inside(path, branch_of(tower.path, paths))
        if own and start < tower.start:
            return PIXELS
    return None


def _collapsed(model: nn.Module, reasons: Mapping[str, str], quantized: Sequence[str]) -> tuple[Kept, ...]:
    """Patterns for linears that are kept: of a whole module where all its linears are kept for one reason."""
    modules = dict(model.named_modules())
    kept: dict[str, str] = {}
    for name, reason in reasons.items():
        path = name
        while reason != TABLE and (parent := path.rpartition(".")[0]):
            below = [
                f"{parent}.{child}"
                for child, module in modules[parent].named_modules()
                if isinstance(module, nn.Linear)
            ]
            others = any(inside(other, parent) for other in quantized)
            if others or any(reasons.get(one) != reason for one in below):
                break
            path = parent
        own = isinstance(modules[path], nn.Linear) or reason == TABLE
        kept[pattern_of(path) if own else f"{pattern_of(path)}.*"] = reason
    return tuple(Kept(pattern, reason) for pattern, reason in kept.items())
