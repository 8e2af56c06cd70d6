"""The rules for packed weights inside a packed weight (nested.py), of tensors or numpy arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import (
    factor_checks,
    level_checks,
    plane_checks,
    raw_checks,
    trellis_checks,
    uniform_checks,
)
from bivlm.formats.encoding.checks import blaming, check_choice, require

FORMAT = "format"  # the setting, after the prefix, that names a part's format
INSIDE: dict[str, Callable[[PackedTensor], None]] = {
    "factors": factor_checks.check_packed,
    "levels": level_checks.check_packed,
    "planes": plane_checks.check_packed,
    "raw": raw_checks.check_packed,
    "trellis": trellis_checks.check_packed,
    "uniform": uniform_checks.check_packed,
}

_NAME = re.compile(r"(?<!is )'(\w+)'")


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
    with naming(prefix), blaming(part.format):
        INSIDE[part.format](part)


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


def _under(prefix: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
