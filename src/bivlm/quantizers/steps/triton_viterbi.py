# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""The search of the trellis in Triton, for weights on a card: the paths of `search_reference` (viterbi.py),
bit for bit.

A program has a strip and goes through its columns, one after the other. The costs of all windows are one
tensor in registers, (groups, branches) before a weight and (branches, groups) after it: both are the windows
in their order, so that a step is a minimum, a sum and a change of shape. A cost and its branch are compared
as one integer, so that the first of equal branches wins, as in the reference. The branches that won are kept
in memory, and the path is read back from them, one weight after the other.

Costs are integers, and the arithmetic of the targets and of the feedback is that of the reference, every
product rounded by itself (`enable_fp_fusion` off, `div_rn`): for the same targets, factor and states the
symbols are the same on a card, in the interpreter and in the library.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.encoding.trellis_checks import HELD, STRIP

AHEAD = 16  # LOOKAHEAD of viterbi.py
UNREACHABLE = tl.constexpr(1 << 26)  # more than any sum of the first steps
SCRATCH = 1 << 28  # bytes of the branches that are kept at a time
WARPS = {
    8: 4,
    12: 8,
    16: 16,
}  # of a program, by window: 64 windows to a warp with 8 bits; 1024 threads on AMD


def search_on_card(
    w: Tensor, u: Tensor, window: int, k: int, table: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `search_columns` of viterbi.py, with the same arguments, all of them on one device."""
    columns, rows = w.shape
    strips, held, groups = len(state), -(-rows // HELD) * HELD, 1 << (window - k)
    together = min(strips, max(1, SCRATCH // ((STRIP + AHEAD) * groups)))
    values, after = w.clone(memory_format=torch.contiguous_format), state.clone()
    symbols = torch.empty(columns, held, dtype=torch.uint8, device=w.device)
    branches = torch.empty(together, STRIP + AHEAD, groups, dtype=torch.uint8, device=w.device)
    windows = torch.empty(together, STRIP + AHEAD, dtype=torch.int32, device=w.device)
    for begin in range(0, strips, together):
        _search[(min(together, strips - begin),)](
            values,
            u.contiguous(),
            table.contiguous(),
            after,
            symbols,
            branches,
            windows,
            begin,
            columns,
            rows,
            held,
            L=window,
            K=k,
            FINENESS=1 if k < 3 else 2,
            num_warps=WARPS[window],
            enable_fp_fusion=False,
        )
    return values, symbols, after


@triton.jit
def _rounded(target, FINENESS: tl.constexpr):
    """A target in the search's units, halves away from zero."""
    target = tl.where(target == target, tl.minimum(tl.maximum(target, -127.0), 127.0), 0.0) * FINENESS
    size = tl.floor(tl.abs(target) + 0.5).to(tl.int32)
    return tl.where(target < 0, -size, size)


@triton.jit
def _search(
    w, u, table, states, symbols, branches, windows, begin, columns, rows, held,
    L: tl.constexpr, K: tl.constexpr, FINENESS: tl.constexpr,
):  # fmt: skip
    STATES: tl.constexpr = 1 << L
    BRANCHES: tl.constexpr = 1 << K
    GROUPS: tl.constexpr = 1 << (L - K)
    KNOWN: tl.constexpr = L // K
    strip = begin + tl.program_id(0)
    first = strip * 64
    height = tl.minimum(64, held - first)
    branches += tl.program_id(0) * 80 * GROUPS
    windows += tl.program_id(0) * 80
    every = tl.arange(0, STATES)
    group = tl.arange(0, GROUPS)
    level = tl.load(table + every).to(tl.int32) * FINENESS
    row = tl.arange(0, 64)
    inside = first + row < rows
    state = tl.load(states + strip)
    for j in range(columns):
        mine = w + j * rows + first
        steps = height + tl.where(j + 1 < columns, 16, 0)
        cost = tl.where(every == state, 0, UNREACHABLE)
        lowest = 0
        for step in range(steps):
            key = tl.min(
                tl.reshape(cost * BRANCHES, (GROUPS, BRANCHES)) + tl.arange(0, BRANCHES)[None, :], axis=1
            )
            tl.store(branches + step * GROUPS + group, (key & (BRANCHES - 1)).to(tl.uint8))
            least = key >> K
            if step >= KNOWN:
                least = tl.minimum(least - lowest, 32767)
                lowest = tl.min(least, axis=0)
            ahead = step >= height
            at = tl.where(ahead, step - height, step)
            known = first + at < rows
            place = mine + at + tl.where(ahead, rows, 0)
            target = _rounded(tl.load(place, mask=known, other=0.0), FINENESS)
            far = tl.minimum(tl.abs(target - level), 181)
            before = tl.reshape(tl.broadcast_to(least[None, :], (BRANCHES, GROUPS)), (STATES,))
            cost = tl.minimum(far * far + before, UNREACHABLE)
            if step == KNOWN - 1:
                start = tl.min(cost, axis=0)
                apart = tl.minimum(cost - start, 32767)
                held_cost = tl.where(start > 32768, apart, tl.minimum(cost, 65534))
                cost = tl.where(cost == UNREACHABLE, 65535, held_cost)
        best = tl.min(cost, axis=0)
        order = (every & (BRANCHES - 1)) * GROUPS + (every >> K)  # of equal ones the first in this order
        last = tl.min(tl.where(cost == best, order, STATES), axis=0)
        at_window = (last & (GROUPS - 1)) * BRANCHES + last // GROUPS
        tl.debug_barrier()  # the branches are read by other threads than those that wrote them
        for back in range(steps):
            step = steps - 1 - back
            tl.store(windows + step, at_window)
            came = tl.load(branches + step * GROUPS + (at_window & (GROUPS - 1))).to(tl.int32)
            at_window = (at_window & (GROUPS - 1)) * BRANCHES + came
        tl.debug_barrier()
        held_row = row < height
        chosen = tl.load(windows + row, mask=held_row, other=0)
        state = tl.load(windows + height - 1)
        tl.store(symbols + j * held + first + row, (chosen >> (L - K)).to(tl.uint8), mask=held_row)
        value = tl.load(table + chosen, mask=held_row, other=0).to(tl.float32)
        target = tl.load(mine + row, mask=inside, other=0.0)
        error = tl.div_rn(target - value, tl.load(u + j * columns + j))
        tl.store(mine + row, value, mask=inside)
        for c in range(j + 1, columns):
            rest = w + c * rows + first + row
            moved = tl.load(rest, mask=inside, other=0.0) - tl.load(u + j * columns + c) * error
            tl.store(rest, moved, mask=inside)
        tl.debug_barrier()  # the next column's targets are read by all threads
    tl.store(states + strip, state)
