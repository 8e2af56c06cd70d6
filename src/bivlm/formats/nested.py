"""Packed weights inside a packed weight: a container (rows.py, lowrank.py) stores its parts under prefixes.

A part with the prefix `left_` has its tensors `codes`, `scales` … as `left_codes`, `left_scales` …, its
settings likewise, and its format as the setting `left_format`. Its shape follows from the container's. Parts
are in one of the formats that hold no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding.checks import require
from bivlm.formats.encoding.part_checks import FORMAT
from bivlm.formats.factors import FactorsWeight
from bivlm.formats.levels import LevelsWeight
from bivlm.formats.planes import PlanesWeight
from bivlm.formats.raw import RawWeight
from bivlm.formats.trellis import TrellisWeight
from bivlm.formats.uniform import UniformWeight

INSIDE: dict[str, type[QuantizedWeight]] = {
    weight.format: weight
    for weight in (FactorsWeight, LevelsWeight, PlanesWeight, RawWeight, TrellisWeight, UniformWeight)
}


def stored_part(prefix: str, packed: PackedTensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the settings of a part as its container has them."""
    settings = {FORMAT: packed.format, **packed.settings}
    return _prefixed(prefix, packed.tensors), _prefixed(prefix, settings)


def check_kinds(weights: Mapping[str, Any]) -> None:
    """ValueError, naming it, for a part that cannot lie in a container."""
    for name, weight in weights.items():
        require(
            type(weight) in INSIDE.values(),
            f"'{name}' is a {type(weight).__name__}; needs a weight in one of {', '.join(INSIDE)}",
        )


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}
