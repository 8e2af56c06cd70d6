"""What is asked of the training of an adapter, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from bivlm.adapters.ranks import Shapes, ranks_within, same_rank
from bivlm.adapters.rounding import check_width
from bivlm.errors import InputError
from bivlm.packed.linear import packed_linears

DEFAULT_RANK = 8
HELD_OUT = 4  # every fourth sample judges


@dataclass(frozen=True)
class AdaptSettings:
    """`rank` components for every linear, or as many as `budget_bits` allow, in bits per packed weight of the
    whole model; `bits` per stored number; `linears` is a glob pattern of module names.

    `given_answers` says which answers a teacher judges: those of the data, else its own greedy ones of at
    most `max_new_tokens`. Raises InputError for values out of range.
    """

    rank: int | None = None
    budget_bits: float | None = None
    bits: int = 8
    linears: str = "*"
    epochs: int = 1
    rate: float = 1e-3
    batch_size: int = 8
    seed: int = 0
    given_answers: bool = False
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        check_width(self.bits)
        if self.rank is not None and self.budget_bits is not None:
            raise InputError("rank and budget-bits both say how large the adapters are; give one of them")
        for name, value in (("rank", self.rank), ("epochs", self.epochs), ("batch size", self.batch_size)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give 1 or more")
        for name, value in (("budget-bits", self.budget_bits), ("rate", self.rate)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; give a positive number")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def ranks(self, shapes: Shapes, packed_weights: int) -> dict[str, int]:
        """The rank of every linear that gets an adapter; `packed_weights` are those of the whole model.
        InputError for a budget that is not enough for a single component.
        """
        if self.budget_bits is None:
            return same_rank(shapes, self.rank or DEFAULT_RANK)
        return ranks_within(shapes, self.budget_bits * packed_weights, self.bits)


def target_shapes(model: Any, pattern: str) -> Mapping[str, tuple[int, int]]:
    """The (out, in) of the packed linears that a glob pattern names, without the language head. InputError if
    there are none.
    """
    head: nn.Module | None = model.get_output_embeddings()
    found = {name: linear for name, linear in packed_linears(model).items() if linear is not head}
    shapes = {
        name: (linear.out_features, linear.in_features)
        for name, linear in found.items()
        if fnmatchcase(name, pattern)
    }
    if not shapes:
        example = f", for example {next(iter(found))}" if found else ""
        raise InputError(f"--linears {pattern!r} names none of the {len(found)} packed linears{example}")
    return shapes
