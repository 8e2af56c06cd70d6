"""Packed weights inside a packed weight: a container (rows.py, lowrank.py) stores its parts under prefixes.

A part with the prefix `left_` has its tensors `codes`, `scales` … as `left_codes`, `left_scales` …, its
settings likewise, and its format as the setting `left_format`. Its shape follows from the container's. Parts
are in one of the formats that hold no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding.checks import check_choice, require
from bivlm.formats.factors import FactorsWeight
from bivlm.formats.levels import LevelsWeight
from bivlm.formats.planes import PlanesWeight
from bivlm.formats.raw import RawWeight
from bivlm.formats.trellis import TrellisWeight
from bivlm.formats.uniform import UniformWeight

FORMAT = "format"  # the setting, after the prefix, that names a part's format
INSIDE: dict[str, type[QuantizedWeight]] = {
    weight.format: weight
    for weight in (FactorsWeight, LevelsWeight, PlanesWeight, RawWeight, TrellisWeight, UniformWeight)
}

_NAME = re.compile(r"(?<!is )'(\w+)'")


def stored_part(prefix: str, packed: PackedTensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the settings of a part as its container has them."""
    settings = {FORMAT: packed.format, **packed.settings}
    return _prefixed(prefix, packed.tensors), _prefixed(prefix, settings)


def part_of(packed: PackedTensor, prefix: str, shape: tuple[int, int], *others: str) -> PackedTensor:
    """The part of a container with a prefix; `others` are settings with this prefix that are the container's
    own. ValueError for a format that it cannot have.
    """
    settings = _under(prefix, packed.settings)
    format_ = settings.pop(FORMAT, None)
    settings = {name: value for name, value in settings.items() if name not in others}
    check_choice(f"{prefix}{FORMAT}", format_, list(INSIDE))
    return PackedTensor(format_, shape, _under(prefix, packed.tensors), settings)


def check_part(prefix: str, part: PackedTensor) -> None:
    """ValueError, with the names that tensors and settings have in the container, for what the part's format
    refuses.
    """
    with naming(prefix):
        INSIDE[part.format].check_packed(part)


def check_kinds(weights: Mapping[str, Any]) -> None:
    """ValueError, naming it, for a part that cannot lie in a container."""
    for name, weight in weights.items():
        require(
            type(weight) in INSIDE.values(),
            f"'{name}' is a {type(weight).__name__}; needs a weight in one of {', '.join(INSIDE)}",
        )


def check_names(packed: PackedTensor, prefixes: list[str], own: list[str]) -> None:
    """ValueError for a tensor that is none of the container's `own` and of no part, and for tensors on
    several devices.
    """
    for name in own:
        require(name in packed.tensors, f"'{name}' is missing")
    first = packed.tensors[own[0]] if own else None
    for name, tensor in packed.tensors.items():
        known = isinstance(name, str) and (name in own or name.startswith(tuple(prefixes)))
        require(known, f"'{name}' does not belong to this weight")
        first = tensor if first is None else first
        require(
            getattr(tensor, "device", None) == getattr(first, "device", None),
            f"'{name}' is on another device than the rest",
        )


@contextmanager
def naming(prefix: str) -> Iterator[None]:
    """Put the prefix before every name in the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_NAME.sub(rf"'{prefix}\1'", str(error))) from error


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}


def _under(prefix: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
