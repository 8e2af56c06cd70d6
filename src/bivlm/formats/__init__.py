"""How weights are stored: one file per format, one table. `base.py` says what a format is; `checks.py` and
`encoding/` have the rules of their bytes, which need no torch, and the encodings of their fields. The
byte-exact specification is docs/format.md.

The names are imported when they are first used, so that the rules alone are there quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bivlm.formats.base import PackedTensor as PackedTensor
    from bivlm.formats.base import QuantizedWeight as QuantizedWeight
    from bivlm.formats.factors import FactorsWeight as FactorsWeight
    from bivlm.formats.levels import LevelsWeight as LevelsWeight
    from bivlm.formats.lowrank import LowrankWeight as LowrankWeight
    from bivlm.formats.planes import PlanesWeight as PlanesWeight
    from bivlm.formats.raw import RawWeight as RawWeight
    from bivlm.formats.rows import RowsWeight as RowsWeight
    from bivlm.formats.table import FORMATS as FORMATS
    from bivlm.formats.table import format_named as format_named
    from bivlm.formats.table import slice_columns as slice_columns
    from bivlm.formats.table import slice_rows as slice_rows
    from bivlm.formats.trellis import TrellisWeight as TrellisWeight
    from bivlm.formats.uniform import UniformWeight as UniformWeight

_HOME = {
    "FORMATS": "bivlm.formats.table",
    "FactorsWeight": "bivlm.formats.factors",
    "LevelsWeight": "bivlm.formats.levels",
    "LowrankWeight": "bivlm.formats.lowrank",
    "PackedTensor": "bivlm.formats.base",
    "PlanesWeight": "bivlm.formats.planes",
    "QuantizedWeight": "bivlm.formats.base",
    "RawWeight": "bivlm.formats.raw",
    "RowsWeight": "bivlm.formats.rows",
    "TrellisWeight": "bivlm.formats.trellis",
    "UniformWeight": "bivlm.formats.uniform",
    "format_named": "bivlm.formats.table",
    "slice_columns": "bivlm.formats.table",
    "slice_rows": "bivlm.formats.table",
}

__all__ = [
    "FORMATS",
    "FactorsWeight",
    "LevelsWeight",
    "LowrankWeight",
    "PackedTensor",
    "PlanesWeight",
    "QuantizedWeight",
    "RawWeight",
    "RowsWeight",
    "TrellisWeight",
    "UniformWeight",
    "format_named",
    "slice_columns",
    "slice_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
