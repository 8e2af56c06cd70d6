"""The quantizer of a table, the token embedding or the language head, for a given number of bits."""

from __future__ import annotations

from bivlm.quantizers import RTN, Quantizer, Trellis

FEWEST_BITS, TRELLIS_BITS = 0.5, 4.0  # taken as a trellis
GRID_BITS = (5, 6, 7, 8)  # taken as an even grid
GRID_GROUP = 64


def table_quantizer(bits: float, calibrated: bool) -> Quantizer:
    """The quantizer of a table; `calibrated`: the second moment of its inputs is known."""
    if bits <= TRELLIS_BITS:
        return Trellis(bits=bits, feedback=calibrated)
    return RTN(bits=int(bits), group_size=GRID_GROUP, zero_point="code", scale_bits=8)
