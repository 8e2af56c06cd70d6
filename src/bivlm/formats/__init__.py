"""How weights are stored: one file per format, one table. `base.py` says what a format is; `encoding/` has
the encodings of their fields. The byte-exact specification is docs/format.md.
"""

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.factors import FactorsWeight
from bivlm.formats.levels import LevelsWeight
from bivlm.formats.planes import PlanesWeight
from bivlm.formats.trellis import TrellisWeight
from bivlm.formats.uniform import UniformWeight

FORMATS: dict[str, type[QuantizedWeight]] = {
    weight.format: weight
    for weight in (FactorsWeight, LevelsWeight, PlanesWeight, TrellisWeight, UniformWeight)
}


def format_named(name: object) -> type[QuantizedWeight]:
    """The class of a format. ValueError, naming those that there are, for any other name."""
    if not isinstance(name, str) or name not in FORMATS:
        raise ValueError(f"the format is {name!r}; needs one of {', '.join(FORMATS)}")
    return FORMATS[name]


__all__ = [
    "FORMATS",
    "FactorsWeight",
    "LevelsWeight",
    "PackedTensor",
    "PlanesWeight",
    "QuantizedWeight",
    "TrellisWeight",
    "UniformWeight",
    "format_named",
]
