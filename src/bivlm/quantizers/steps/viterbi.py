"""The search of the trellis: the columns of a block one after the other, each strip's column as the best path
through the windows (Viterbi).

A window of L bits is a state; a weight adds K bits on top of it: state' = bits · 2^(L-K) + state >> K. A
column of a strip is a path. It starts at the strip's state and has the smallest Σ (target - level)² over
its own rows and the first rows of the next column, where the path goes on. The error of a column is fed back
into the later columns of the block.

Costs are integers. Targets are rounded to a table's unit, or to half of it if K > 2. A difference counts as
at most FARTHEST. The excess of a path over the best one counts as at most LARGEST_COST. The native search
(csrc/trellis/search/viterbi.h) keeps costs in 16 bits. It and the search below take the same paths, so a
weight has the same bytes on every machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats.encoding.trellis_checks import HELD, STRIP
from bivlm.native.library import library
from bivlm.native.search import native_search

LOOKAHEAD = 16  # rows of the next column that count for a path
FINENESS = {1: 1, 2: 1, 3: 2, 4: 2}  # steps in a table's unit, by K
LARGEST_TARGET = 127.0
FARTHEST = 181  # its square fits 15 bits
LARGEST_COST = 32767
UNREACHABLE = 1 << 28
NOT_REACHED = 65535  # after the first steps, where a cost has 16 bits


def search_columns(
    w: Tensor, u: Tensor, window: int, k: int, table: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (columns, out) float32, symbols (columns, held) uint8 and the state (strips,) int32 after them.

    `w` (columns, out) float32 are the targets in units of the table's values; `u` (columns, columns) the
    factor of H⁻¹ = UᵀU that feeds errors on; `table` (2^window,) int8; `state` (strips,) int32 the last
    `window` bits of every strip's stream. Arguments are not changed; on a card, all of them are there.
    """
    if w.is_cuda:
        from bivlm.quantizers.steps.triton_viterbi import search_on_card

        return search_on_card(w, u, window, k, table, state)
    loaded = library()
    if loaded is None:
        return search_reference(w, u, window, k, table, state)
    return native_search(loaded, w, u, window, k, table, state)


def search_reference(
    w: Tensor, u: Tensor, window: int, k: int, table: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, as the definition."""
    rows = w.shape[1]
    whole = rows // STRIP * STRIP
    pieces = []
    for start, stop, strips in (
        (0, whole, slice(0, rows // STRIP)),
        (whole, rows, slice(rows // STRIP, None)),
    ):
        if start < stop:
            pieces.append(_search_strips(w[:, start:stop], u, window, k, table, state[strips]))
    values, symbols, after = zip(*pieces, strict=True)
    return torch.cat(values, 1), torch.cat(symbols, 1), torch.cat(after)


def _search_strips(
    w: Tensor, u: Tensor, window: int, k: int, table: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Strips of the same height side by side."""
    columns, rows = w.shape
    height = -(-rows // len(state) // HELD) * HELD
    rest = torch.nn.functional.pad(w.float(), (0, len(state) * height - rows))
    values, symbols = torch.empty_like(rest), torch.empty(rest.shape, dtype=torch.uint8, device="cpu")
    inside = torch.arange(rest.shape[1], dtype=torch.int64, device="cpu") < rows
    for j in range(columns):
        ahead = (
            rest[j + 1].view(len(state), height)[:, :LOOKAHEAD]
            if j + 1 < columns
            else rest.new_zeros(len(state), 0)
        )
        targets = torch.cat([rest[j].view(len(state), height), ahead], 1)
        windows = best_path(_rounded(targets, k), window, k, table.int() * FINENESS[k], state)[:, :height]
        state = windows[:, -1].int()
        values[j] = table.float()[windows].view(-1)
        symbols[j] = (windows >> (window - k)).view(-1).to(torch.uint8)
        error = torch.where(inside, (rest[j] - values[j]) / u[j, j], 0.0)
        rest[j + 1 :] -= u[j, j + 1 :, None] * error
    return values[:, :rows], symbols, state


def best_path(targets: Tensor, window: int, k: int, levels: Tensor, state: Tensor) -> Tensor:
    """The windows (n, steps) int64 of the best path through `targets` (n, steps) int32 from each `state`
    (n,); `levels` (2^window,) int32.

    Among paths of equal cost it is the one whose last window has the lowest value in its lowest k bits, then
    in its other bits, and so on, step by step backwards.
    """
    count, steps = targets.shape
    branches, groups, known = 1 << k, 1 << (window - k), window // k
    cost = torch.full((count, 1 << window), UNREACHABLE, dtype=torch.int32, device="cpu")
    cost.scatter_(1, state[:, None].long(), 0)
    came_from = torch.empty(steps, count, groups, dtype=torch.int64, device="cpu")
    lowest = torch.zeros(count, 1, dtype=torch.int32, device="cpu")
    for step in range(steps):
        least, came_from[step] = _first_least(cost.view(count, groups, branches))
        if step >= known:
            least = (least - lowest).clamp_(max=LARGEST_COST)
            lowest = least.amin(1, keepdim=True)
        distance = (targets[:, step, None] - levels).abs_().clamp_(max=FARTHEST).square_()
        cost = (distance.view(count, branches, groups) + least[:, None]).clamp_(max=UNREACHABLE).flatten(1)
        if step == known - 1:
            cost = _in_16_bits(cost)
    last = _first_least(cost.view(count, groups, branches).transpose(1, 2).flatten(1))[1]
    at = last % groups * branches + last // groups
    windows = torch.empty(count, steps, dtype=torch.int64, device="cpu")
    for step in range(steps - 1, -1, -1):
        windows[:, step] = at
        group = at & (groups - 1)
        at = group * branches + came_from[step].gather(1, group[:, None])[:, 0]
    return windows


def _in_16_bits(cost: Tensor) -> Tensor:
    """The costs (n, windows) after the first, exact steps: relative to the least if that is far from 0."""
    least = cost.amin(1, keepdim=True)
    held = torch.where(
        least > LARGEST_COST + 1, (cost - least).clamp(max=LARGEST_COST), cost.clamp(max=NOT_REACHED - 1)
    )
    return torch.where(cost == UNREACHABLE, NOT_REACHED, held).int()


def _first_least(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The least along the last dimension and its first place."""
    place = cost.argmin(-1)
    return cost.gather(-1, place[..., None])[..., 0], place


def _rounded(targets: Tensor, k: int) -> Tensor:
    """Targets in the search's units, halves away from zero: int32."""
    scaled = targets.nan_to_num(0.0).clamp(-LARGEST_TARGET, LARGEST_TARGET) * FINENESS[k]
    return (scaled.abs() + 0.5).floor().copysign(scaled).int()
