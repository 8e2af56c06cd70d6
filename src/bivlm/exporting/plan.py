"""What a GGUF file will hold, before anything is read: its metadata, and where each tensor comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bivlm.errors import InputError
from bivlm.exporting.weights import FolderWeights

Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


@dataclass(frozen=True)
class Planned:
    """A tensor of the file.

    `source` is the name of the weight that it is made of; `rows` (n,) int64 says which of its rows, in which
    order (rows keep their packed codes), or None for all. `change` makes other values of it, for what is not
    packed codes; `shape` is what it makes. `full` asks for float32. A tensor without a source has its
    `value`.
    """

    name: str
    source: str = ""
    rows: Tensor | None = None
    change: Callable[[Tensor], Tensor] | None = None
    shape: tuple[int, ...] | None = None
    full: bool = False
    value: Tensor | None = None

    def shape_in(self, weights: FolderWeights) -> tuple[int, ...]:
        """The shape in the file."""
        if self.value is not None:
            return tuple(self.value.shape)
        if self.shape is not None:
            return self.shape
        shape = weights.shape(self.source)
        return shape if self.rows is None else (len(self.rows), *shape[1:])

    def read(self, weights: FolderWeights) -> Tensor:
        """Its values in float32."""
        if self.value is not None:
            return self.value
        tensor = weights.read(self.source)
        tensor = tensor if self.rows is None else tensor[self.rows]
        return tensor if self.change is None else self.change(tensor)


@dataclass(frozen=True)
class Plan:
    """A file: llama.cpp's name of the architecture, its metadata by key, its tensors in their order; `unused`
    begins the names of weights that serve no answer. `remark` is what a user must know.
    """

    architecture: str
    metadata: Mapping[str, Value]
    tensors: Sequence[Planned]
    unused: tuple[str, ...] = ()
    remark: str = ""


def check_all_used(weights: FolderWeights, plans: Sequence[Plan]) -> None:
    """InputError if a weight of the model is in none of the files and known to be of no use: llama.cpp's
    architecture would compute something else.
    """
    used = {tensor.source for plan in plans for tensor in plan.tensors}
    known = tuple(start for plan in plans for start in plan.unused)
    unused = [name for name in weights.names if name not in used and not name.startswith(known)]
    if unused:
        raise InputError(
            f"{weights.folder}: llama.cpp's {plans[0].architecture} has no place for {unused[0]}"
            f" ({len(unused)} weights in all), so this model cannot be exported"
        )


def require(condition: Any, weights: FolderWeights, what: str) -> None:
    """InputError, saying what llama.cpp does not compute, unless the condition holds."""
    if not condition:
        raise InputError(
            f"{weights.folder}: {what}; llama.cpp computes something else, so it is not exported"
        )
