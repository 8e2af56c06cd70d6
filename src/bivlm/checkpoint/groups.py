"""One entry of config.json for many packed experts that differ in their number alone.

    model.layers.0.mlp.experts.[0-127].down_proj      128 modules
    model.layers.0.mlp.experts.[0-6,8].down_proj      8 modules

A model of 48 layers with 128 experts has 12 288 packed linears; as a rule 96 entries describe them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

_NUMBERS = re.compile(r"\[((?:\d{1,6}(?:-\d{1,6})?,)*\d{1,6}(?:-\d{1,6})?)\]")
MOST_MEMBERS = 1 << 16
PROJECTIONS = ("gate_up_proj", "up_proj", "down_proj")  # of an expert


def members(name: str) -> list[str]:
    """The names that a name stands for: itself, or one for every number in its brackets. ValueError unless
    the numbers ascend, and for brackets that are no list of numbers.
    """
    if "[" not in name:
        return [name]
    found = _NUMBERS.search(name)
    if found is None or "[" in name.replace(found.group(0), "", 1):
        raise ValueError(f"{name[:120]!r} is no list of names; needs one [first-last,…]")
    numbers: list[int] = []
    for part in found.group(1).split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
        if len(numbers) > MOST_MEMBERS:
            raise ValueError(f"{name[:120]!r} stands for more than {MOST_MEMBERS} names")
    if numbers != sorted({*numbers}) or not numbers:
        raise ValueError(f"the numbers of {name[:120]!r} do not ascend")
    return [name.replace(found.group(0), str(number), 1) for number in numbers]


def grouped(modules: Mapping[str, Mapping[str, Any]], places: Collection[str]) -> dict[str, dict[str, Any]]:
    """The entries of packed modules by name, with one entry for all experts of the modules at `places` that
    have the same; every key is the module's name and a dot.
    """
    owners, groups = frozenset(places), dict[tuple[str, str, str], list[int]]()
    found: dict[str, dict[str, Any]] = {}
    for name, entry in modules.items():
        place, number, rest = _parted(name)
        if place in owners:
            same = json.dumps({**entry, "key": ""}, sort_keys=True)
            groups.setdefault((place, rest, same), []).append(int(number))
        else:
            found[name] = dict(entry)
    for (place, rest, same), numbers in groups.items():
        name = f"{place}.{_listed(sorted(numbers))}.{rest}"
        found[name] = {**json.loads(same), "key": f"{name}."}
    return found


def layer_of_experts(name: str) -> str | None:
    """The module of experts that a linear of an expert belongs to, by its name; None for every other name."""
    place, _, projection = _parted(name)
    return place if projection in PROJECTIONS else None


def _parted(name: str) -> tuple[str, str, str]:
    """The module of experts, the number and the projection in the name of an expert's linear."""
    rest, _, projection = name.rpartition(".")
    place, _, number = rest.rpartition(".")
    return (place, number, projection) if number.isdecimal() else ("", "", "")


def _listed(numbers: list[int]) -> str:
    """Ascending numbers as members() reads them; one alone without brackets."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"[{','.join(parts)}]"
