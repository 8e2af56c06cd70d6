"""The table of the formats, and what is done with a packed weight of any of them."""

from __future__ import annotations

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.factors import FactorsWeight
from bivlm.formats.levels import LevelsWeight
from bivlm.formats.lowrank import LowrankWeight
from bivlm.formats.planes import PlanesWeight
from bivlm.formats.raw import RawWeight
from bivlm.formats.rows import RowsWeight
from bivlm.formats.trellis import TrellisWeight
from bivlm.formats.uniform import UniformWeight

FORMATS: dict[str, type[QuantizedWeight]] = {
    weight.format: weight
    for weight in (
        FactorsWeight,
        LevelsWeight,
        LowrankWeight,
        PlanesWeight,
        RawWeight,
        RowsWeight,
        TrellisWeight,
        UniformWeight,
    )
}


def slice_rows(packed: PackedTensor, start: int, stop: int) -> PackedTensor:
    """The rows start … stop - 1 of a packed weight as a packed weight of their own, exactly: any rows, and of
    `trellis` whole strips of 64, of `rows` and `lowrank` what their parts can be cut at.

    InputError for rows that there are not, or where it cannot be cut; ValueError as `decode` raises it.
    """
    return format_named(packed.format).decode(packed).slice_rows(start, stop).encode()


def slice_columns(packed: PackedTensor, start: int, stop: int) -> PackedTensor:
    """The columns start … stop - 1 of a packed weight as a packed weight of their own, exactly: columns of
    whole groups, and of `trellis` whole blocks of the rotation. The slices' products with their inputs add up
    to the product of the whole weight.

    InputError for columns that there are not, or where it cannot be cut; ValueError as `decode` raises it.
    """
    return format_named(packed.format).decode(packed).slice_columns(start, stop).encode()


def format_named(name: object) -> type[QuantizedWeight]:
    """The class of a format. ValueError, naming those that there are, for any other name."""
    if not isinstance(name, str) or name not in FORMATS:
        raise ValueError(f"the format is {name!r}; needs one of {', '.join(FORMATS)}")
    return FORMATS[name]
