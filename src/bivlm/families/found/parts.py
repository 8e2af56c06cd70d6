"""Which part of the model each stack belongs to, and which modules between the stacks are projectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.families.base import block_paths
from bivlm.families.found.stacks import Seen, has_linear, inside
from bivlm.families.found.tracing import Trace, run
from bivlm.trees import first_tensor
from bivlm.types import PartName


@dataclass(frozen=True)
class Views:
    """Three forward passes of one model: a question, another image, another question. A language model has
    no other image.
    """

    question: Trace
    other_image: Trace | None
    other_question: Trace
    pixels: tuple[Tensor, ...] = ()

    def changes_with_text(self, name: str) -> bool:
        return _changes(self.question, self.other_question, name)

    def changes_with_image(self, name: str) -> bool:
        return self.other_image is not None and _changes(self.question, self.other_image, name)

    def reads_pixels(self, name: str) -> bool:
        """Whether what enters a module has as many values as the pixels: then it is they, in some shape."""
        calls = self.question.of(name)
        sizes = {pixels.numel() for pixels in self.pixels}
        return any(call.entered is not None and call.entered.numel() in sizes for call in calls)


def _changes(one: Trace, other: Trace, name: str) -> bool:
    before, after = one.of(name), other.of(name)
    if len(before) != len(after):
        return True
    return any(
        a.made != b.made or not _equal(a.entered, b.entered) for a, b in zip(before, after, strict=True)
    )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(torch.equal(one, other))


def branch_of(path: str, paths: Sequence[str]) -> str:
    """The first module on a path that the other paths do not share."""
    words = [one.split(".") for one in {*paths}]
    common = 0
    while len(words) > 1 and len({tuple(one[: common + 1]) for one in words}) == 1:
        common += 1
    return ".".join(path.split(".")[: common + 1])


def parts_of(stacks: Sequence[Seen], views: Views, encoder_decoder: bool) -> dict[str, PartName]:
    """The part of each stack by its path. Text decides: what changes with it is language. Of the others, a
    stack that is in a tower, with pixels at its entrance, is vision; one that stands between is a projector.
    """
    paths = [stack.path for stack in stacks]
    parts: dict[str, PartName] = {}
    telling = [stack for stack in stacks if any(map(views.changes_with_text, stack.blocks))]
    main = branch_of(telling[-1].path, paths) if telling else ""
    for stack in stacks:
        branch = branch_of(stack.path, paths)
        if stack in telling:
            parts[stack.path] = "language" if encoder_decoder or branch == main else "projector"
        else:
            parts[stack.path] = "vision" if views.reads_pixels(branch) else "projector"
    visual = [stack.path for stack in stacks if stack not in telling]
    if visual and "vision" not in parts.values():
        first = branch_of(visual[0], paths)
        parts |= {path: "vision" for path in visual if branch_of(path, paths) == first}
    return parts


def outermost(model: nn.Module, linear: str, trace: Trace, foreign: Sequence[str]) -> str:
    """The largest module around a linear that runs (or is a list of such) and holds nothing `foreign`: no
    stack, embedding or head.
    """
    modules, path = dict(model.named_modules()), linear
    while parent := path.rpartition(".")[0]:
        if any(inside(other, parent) for other in foreign):
            break
        module = modules[parent]
        if isinstance(module, nn.ModuleList):
            whole = all(
                trace.of(f"{parent}.{index}") for index, child in enumerate(module) if has_linear(child)
            )
        else:
            whole = bool(trace.of(parent))
        if not whole:
            break
        path = parent
    return path


def has_effect(model: nn.Module, path: str, inputs: Mapping[str, Any], logits: Tensor | None) -> bool:
    """Whether the logits change if a module gives something else: many towers compute what nobody reads."""

    def other(_: nn.Module, args: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is not None:
            tensor.mul_(-1.5).add_(0.25)
        return output

    handles = [model.get_submodule(block).register_forward_hook(other) for block in block_paths(model, path)]
    try:
        changed = run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return not _equal(logits, changed)
