"""What a kind of quantized checkpoint is: how the tensors of one linear are named, and how many weights they
unpack to.

A layout is known by the endings of names and by shapes, not by what a config calls it: AutoRound writes
GPTQ's layout, and a config may be missing or wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bivlm.recount.settings import Settings
from bivlm.recount.stored import StoredTensor


class Misfit(Exception):
    """The tensors of a module do not fit each other or the config: the message says what."""


@dataclass(frozen=True)
class Module:
    """The tensors of one linear by the endings of their names, and the settings that hold for it."""

    name: str
    tensors: Mapping[str, StoredTensor]
    settings: Settings

    def shape(self, ending: str) -> tuple[int, ...]:
        """A shape with something in it. Raises Misfit for a tensor that is empty or a single number."""
        shape = self.tensors[ending].shape
        if not shape or 0 in shape:
            raise Misfit(f"{ending[1:]} has the shape {list(shape)}")
        return shape

    def matrix(self, ending: str) -> tuple[int, int]:
        """A shape of two dims. Raises Misfit for another."""
        shape = self.shape(ending)
        if len(shape) != 2:
            raise Misfit(f"{ending[1:]} has the shape {list(shape)}, and two dims are expected")
        return shape[0], shape[1]

    def word(self, ending: str) -> int:
        """Bits of an element of a tensor of codes."""
        tensor = self.tensors[ending]
        return 8 * tensor.nbytes // max(tensor.numel, 1)


@dataclass(frozen=True)
class Unpacked:
    """Weights of the unpacked linear, and bits of a code."""

    weights: int
    bits: float


@dataclass(frozen=True)
class Layout:
    """One way to store a linear. `needs` are the endings that must be there, the first of them shows the
    layout; `may` are those that belong to it if they are there (a star stands for anything but a bias).
    `fits` says whether shapes and dtypes are this layout's. `unpack` raises Misfit for what cannot be.
    """

    kind: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    fits: Callable[[Module], bool]
    unpack: Callable[[Module], Unpacked]


@dataclass(frozen=True)
class Taken:
    """The tensors of one module in a layout, and what they unpack to: None with a reason if that cannot be
    told.
    """

    name: str
    kind: str
    tensors: tuple[StoredTensor, ...]
    unpacked: Unpacked | None
    reason: str = ""


Kind = Callable[[Mapping[str, StoredTensor], Settings], Iterator[Taken]]


def by_layout(*layouts: Layout) -> Kind:
    """A kind that takes every module whose tensors are in one of the layouts."""

    def take(tensors: Mapping[str, StoredTensor], settings: Settings) -> Iterator[Taken]:
        of_module: dict[str, list[str]] = defaultdict(list)
        for key in tensors:
            of_module[key.rpartition(".")[0]].append(key)
        for layout in layouts:
            for key in [key for key in tensors if key.endswith(layout.needs[0])]:
                name = key.removesuffix(layout.needs[0])
                if not name or any(name + ending not in tensors for ending in layout.needs):
                    continue
                found = _found(name, layout, tensors, of_module[name])
                module = Module(name, found, settings.for_module(name))
                if _fits(module, layout):
                    yield _taken(module, layout)

    return take


def _found(
    name: str, layout: Layout, tensors: Mapping[str, StoredTensor], siblings: Sequence[str]
) -> dict[str, StoredTensor]:
    """The tensors of a module that are of the layout, by ending."""
    found = {}
    for ending in (*layout.needs, *layout.may):
        start = name + ending.removesuffix("*")
        if ending.endswith("*"):
            keys = [key for key in siblings if key.startswith(start) and not key.endswith(".bias")]
            found |= {key.removeprefix(name): tensors[key] for key in keys}
        elif start in tensors:
            found[ending] = tensors[start]
    return found


def _fits(module: Module, layout: Layout) -> bool:
    try:
        return layout.fits(module)
    except Misfit:
        return False


def _taken(module: Module, layout: Layout) -> Taken:
    tensors = tuple(module.tensors.values())
    try:
        unpacked = layout.unpack(module)
    except Misfit as misfit:
        return Taken(module.name, layout.kind, tensors, None, str(misfit))
    return Taken(module.name, f"{layout.kind} {unpacked.bits:.3g}-bit", tensors, unpacked)


def whole_bits(bits: float, of: str) -> float:
    """`bits` if a code can have so many. Raises Misfit otherwise."""
    if not (bits == int(bits) and 1 <= bits <= 8):
        raise Misfit(f"{of} would have {bits:.3g} bits")
    return bits
