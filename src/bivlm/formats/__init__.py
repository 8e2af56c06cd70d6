"""How weights are stored: one file per format, one table. The byte-exact specification is docs/format.md."""

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.levels import LevelsWeight

FORMATS: dict[str, type[QuantizedWeight]] = {weight.format: weight for weight in (LevelsWeight,)}

__all__ = ["FORMATS", "LevelsWeight", "PackedTensor", "QuantizedWeight"]
