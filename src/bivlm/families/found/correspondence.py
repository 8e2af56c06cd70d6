"""Whether the patches of a small model's tower correspond to its visual tokens, and how.

    tower blocks ─ the output of one is read ─► projector ─► visual tokens ─► first language block
          patches that are changed here    ─►  the tokens that change here

An order of patches and tokens (patches.py) holds if, for every binary digit of the tokens' numbers, a change
of the patches of all tokens with this digit, and of all without it, changes exactly these tokens: then each
patch has an effect on its own token and on no other. It must hold for images of several sizes, if there are
some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.families.found.patches import Patches, PatchTokens, TokenGrids, TowerOutputs
from bivlm.families.found.tracing import entering, run
from bivlm.trees import first_tensor

MOST_LEFT_OUT = 8  # class tokens and registers
LARGEST_FOLD = 16


class _Enough(Exception):
    """Ends a forward pass at the first language block; not an error."""


@dataclass(frozen=True)
class Asked:
    """A question to the small model: its inputs, and the number of its images."""

    inputs: Mapping[str, Any]
    images: int


@dataclass(frozen=True)
class Towers:
    """The tower's blocks, the first language block, and the projector's blocks that run among the tower's."""

    blocks: Sequence[nn.Module]
    language: nn.Module
    between: Sequence[nn.Module]


def find_patches(
    model: Any, towers: Towers, questions: Sequence[Asked], token: int, layers: Sequence[int]
) -> Patches | None:
    """How patches become tokens in every question; None if they do not correspond. `token` marks visual
    tokens; `layers` are the hidden states of the tower that the config asks for, negative from the end.
    """
    from_end = _output_read(model, towers, questions[0].inputs, layers)
    if from_end is None:
        return None
    block = towers.blocks[-from_end]
    views = [_View.of(model, block, towers.language, asked, token) for asked in questions]
    for order in _orders(views[0], several=len(questions) > 1):
        if all(view is not None and view.has(order) for view in views):
            return Patches(order, TowerOutputs(from_end))
    return None


def _output_read(model: Any, towers: Towers, inputs: Mapping[str, Any], layers: Sequence[int]) -> int | None:
    """The block whose output alone the model reads, other than by the block after it and by projectors among
    the blocks; counted from the end. None if there are several, or if it is not known which one it is in a
    deeper tower.
    """
    logits, calls = _recorded(model, [*towers.blocks[1:], *towers.between], inputs)
    read = [
        index
        for index, block in enumerate(towers.blocks)
        if not _same(logits, _logits_with(model, block, [b for b in calls if b is not block], calls, inputs))
    ]
    if len(read) != 1:
        return None
    from_end = len(towers.blocks) - read[0]
    return from_end if from_end == 1 or -from_end in layers else None


def _recorded(
    model: Any, modules: Sequence[nn.Module], inputs: Mapping[str, Any]
) -> tuple[Tensor | None, dict[nn.Module, tuple[Any, Any]]]:
    """The logits, and how some modules are called."""
    calls: dict[nn.Module, tuple[Any, Any]] = {}
    with ExitStack() as hooks:
        for module in modules:
            handle = module.register_forward_pre_hook(
                lambda one, args, kwargs: calls.update({one: (args, kwargs)}), with_kwargs=True
            )
            hooks.callback(handle.remove)
        return run(model, inputs), calls


def _logits_with(
    model: Any,
    changed: nn.Module,
    replayed: Sequence[nn.Module],
    calls: Mapping[nn.Module, tuple[Any, Any]],
    inputs: Mapping[str, Any],
) -> Tensor | None:
    """The logits, where the output of one block is another, and some modules get what they got before."""
    with ExitStack() as hooks:
        for module in replayed:
            handle = module.register_forward_pre_hook(lambda one, args, kwargs: calls[one], with_kwargs=True)
            hooks.callback(handle.remove)
        handle = changed.register_forward_hook(_changing(lambda one: one * -1.5 + 0.25), prepend=True)
        hooks.callback(handle.remove)
        return run(model, inputs)


def _changing(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook that changes the hidden states that a block returns."""

    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    return hook


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and bool(torch.equal(one, other))


@dataclass(frozen=True)
class _View:
    """What can be seen of one question: the visual tokens (n, d) at the first language block, and the shape
    (rows, patches) of what a block of the tower returns.
    """

    model: Any
    block: nn.Module
    language: nn.Module
    asked: Asked
    visual: Tensor
    tokens: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, model: Any, block: nn.Module, language: nn.Module, asked: Asked, token: int) -> _View | None:
        """None if the tower runs in another way, or if tokens are not where they should be."""
        shapes: list[tuple[int, ...]] = []

        def note(one: Tensor) -> Tensor:
            shapes.append(tuple(one.shape))
            return one

        visual = asked.inputs["input_ids"] == token
        tokens = _entering_tokens(model, block, note, language, asked.inputs, visual)
        if tokens is None or len(shapes) != 1 or len(shapes[0]) not in (2, 3) or len(tokens) < 2:
            return None
        rows, patches = (1, *shapes[0])[-3:-1]
        return cls(model, block, language, asked, visual, tokens, (rows, patches))

    def has(self, order: PatchTokens) -> bool:
        """Whether the patches become the tokens in this order."""
        rows, patches = self.shape
        if order.grids is None and rows < self.asked.images:
            return False  # several images in one row, and no word where one ends
        if order.grids is not None and order.grids.count(self.asked.inputs) != len(self.tokens):
            return False
        tokens = order.tokens(self.asked.inputs, rows, patches)
        if tokens is None or (int(tokens.max()) + 1) * rows != len(self.tokens):
            return False
        first = torch.arange(rows)[:, None] * (int(tokens.max()) + 1)
        owner = torch.where(tokens < 0, -1, tokens + first)
        numbers = torch.arange(len(self.tokens))
        if bool((owner < 0).any()) and bool(self._changed(owner < 0).any()):
            return False
        return all(
            torch.equal(self._changed((owner >= 0) & digit(owner)), digit(numbers))
            for digit in _digits(len(numbers))
        )

    def _changed(self, patches: Tensor) -> Tensor:
        """The tokens (n,) that change where `patches` (rows, patches) do."""

        def change(one: Tensor) -> Tensor:
            return torch.where(patches.view(*one.shape[:-1], 1), one * -1.5 + 0.25, one)

        with_changes = _entering_tokens(
            self.model, self.block, change, self.language, self.asked.inputs, self.visual
        )
        assert with_changes is not None
        return (with_changes != self.tokens).any(1)


def _digits(count: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """For every binary digit of the numbers below `count`: which have it, and which have not."""
    for place in range((count - 1).bit_length()):
        yield lambda numbers, place=place: (numbers >> place) % 2 == 1
        yield lambda numbers, place=place: (numbers >> place) % 2 == 0


def _entering_tokens(
    model: Any,
    block: nn.Module,
    change: Callable[[Tensor], Tensor],
    language: nn.Module,
    inputs: Mapping[str, Any],
    visual: Tensor,
) -> Tensor | None:
    """The visual tokens (n, d) that enter the first language block, where the output of a block of the tower
    is changed. None if what enters has another shape.
    """
    entered: list[Tensor | None] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        entered.append(entering(args, kwargs))
        raise _Enough

    handles = [
        block.register_forward_hook(_changing(change), prepend=True),
        language.register_forward_pre_hook(stop, with_kwargs=True),
    ]
    try:
        with suppress(_Enough):
            run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    hidden = first_tensor(entered)
    if hidden is None or hidden.shape[:-1] != visual.shape:
        return None
    return hidden[visual]


def _orders(view: _View | None, several: bool) -> Iterator[PatchTokens]:
    """The orders of patches for which the numbers of patches and tokens fit, the likelier ones first. With
    `several` images of different sizes each order is put to the test; without them it is not said that a
    model that is told the sizes, or the places of patches, takes all images for squares.
    """
    if view is None or len(view.tokens) % view.shape[0]:
        return
    rows, patches = view.shape
    count = len(view.tokens) // rows
    inputs = view.asked.inputs
    sized = [name for name, one in inputs.items() if _has_sizes(one) and _matters(view.model, inputs, name)]
    placed = any(_has_places(one, view.shape) for one in inputs.values())
    grids = next((one for name in sized for one in _grids(name, view)), None)
    for fold in range(1, min(LARGEST_FOLD, isqrt(patches // count)) + 1):
        left_out = patches - count * fold**2
        if left_out > MOST_LEFT_OUT:
            continue
        if rows == 1 and left_out == 0 and grids is not None:
            yield PatchTokens("groups", fold, 0, grids)
            yield PatchTokens("images", fold, 0, grids)
        if several or not (sized or placed):
            yield PatchTokens("tiles", fold, left_out)


def _has_places(value: Any, shape: tuple[int, int]) -> bool:
    """Whether an input has the place of each patch."""
    whole = isinstance(value, Tensor) and not value.is_floating_point()
    return whole and value.ndim == 3 and tuple(value.shape[:2]) == shape


def _matters(model: Any, inputs: Mapping[str, Any], name: str) -> bool:
    """Whether the model reads an input: with half of the sizes it computes something else, or fails."""
    try:
        return not _same(run(model, inputs), run(model, {**inputs, name: inputs[name] // 2}))
    except Exception:  # of a model of unknown code
        return True


def _has_sizes(value: Any) -> bool:
    """Whether an input has a height and a width for each image."""
    whole = isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool
    return whole and value.ndim == 2 and value.shape[1] in (2, 3)


def _grids(name: str, view: _View) -> Iterator[TokenGrids]:
    sizes = view.asked.inputs[name][:, -2:]
    for unit in range(1, int(sizes.min()) + 1):
        grids = TokenGrids(name, unit)
        if not bool((sizes % unit).any()) and grids.count(view.asked.inputs) == len(view.tokens):
            yield grids
