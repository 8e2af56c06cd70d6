"""The positions of a sparse tail: the gaps between their row-major positions, as Rice codes in two streams.

g_0 = p_0,  g_i = p_i - p_(i-1) - 1    'tail_low' and 'tail_high' as docs/format.md says under "Rice codes"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bivlm.formats.encoding import streams
from bivlm.formats.encoding.arrays import Array, as_int64
from bivlm.formats.encoding.checks import blaming, require

if TYPE_CHECKING:
    from torch import Tensor


def positions_inside(positions: Tensor, columns: int, rows: slice, inside: slice) -> tuple[Tensor, Tensor]:
    """Which of the row-major `positions` (n,) of a weight of `columns` columns lie in its rows `rows` and
    columns `inside` (slices with start and stop): (n,) bool, and where they lie in these: (n',) int64.
    """
    row, column = positions // columns - rows.start, positions % columns - inside.start
    height, width = rows.stop - rows.start, inside.stop - inside.start
    kept = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return kept, (row * width + column)[kept]


def pack_positions(positions: Tensor) -> tuple[Tensor, Tensor, int]:
    """Positions (n,) int64, ascending, not negative, to the low stream, the high stream, and the parameter
    that gives the fewest bytes.
    """
    from bivlm.formats.encoding import bits  # needs torch

    gaps = positions.diff(prepend=positions.new_full((1,), -1)) - 1
    rice = bits.rice_parameter(gaps)
    return *bits.pack_rice(gaps, rice), rice


def unpack_positions(low: Array, high: Array, count: int, rice: int, weights: int) -> Array:
    """The inverse of `pack_positions`: (count,) int64, all below `weights`. `low` must have the number of
    bytes that follows from `count` and `rice`.

    Raises ValueError, naming 'tail_high' or 'tail_low'; the sum of the gaps is checked before any of them can
    overflow.
    """
    with blaming("'tail_high'"):
        quotients = streams.unpack_unary(high, count)
    with blaming("'tail_low'"):
        remainders = as_int64(streams.fields(low[None], rice, count)[0]) if rice else quotients * 0
    last = (int(quotients.sum()) << rice) + int(remainders.sum()) + count - 1
    require(last < weights, f"'tail_high' and 'tail_low' lead to position {last} in a weight of {weights}")
    return ((quotients << rice) + remainders + 1).cumsum(0) - 1


def positions_nbytes(count: int, weights: int) -> int:
    """An upper bound of the bytes of the two streams for any `count` positions below `weights`; it never
    falls as `count` grows.
    """
    return streams.rice_bytes_bound(count, weights - count)
