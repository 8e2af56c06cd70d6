# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""`levels` in Triton: words of codes are taken apart in registers, and each code becomes a level of its
table.

    y[i, t] = scale · (Σ_j level(i, j) x[t, j] + Σ_tail (tail value − level(i, j)) x[t, j]) + bias[i]

Levels are float16 relative to `scale`, and stay so in a tile; `scale` is applied to the sums. A table of up
to four levels is chosen from in registers where all codes of a word share it; a larger one is loaded from,
entry by entry. The tail is a product of its own: its entries in rows, each with its column and its code.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits, streams
from bivlm.formats.encoding.level_checks import TAIL_KIND, tail_code_bits_outside
from bivlm.formats.levels import LevelsWeight, tail_positions
from bivlm.kernels.triton_shared import OPTIONS, TritonProduct, store_sums
from bivlm.kernels.triton_tail import Tail
from bivlm.kernels.triton_words import (
    WordsKernel,
    load_columns,
    read_words,
    symbol_of,
    symbols_of,
    words_of,
)


def product(packed: PackedTensor) -> LevelsProduct:
    """The product of a weight in `levels`. ValueError for what `check_packed` refuses."""
    return LevelsProduct(packed)


class LevelsProduct(TritonProduct):
    """The product with one weight. In addition to the packed tensors it holds `scale` for each row, and the
    tail in rows.
    """

    def __init__(self, packed: PackedTensor) -> None:
        LevelsWeight.check_packed(packed)
        tensors, settings, rows = packed.tensors, packed.settings, packed.shape[0]
        words, codes = words_of(tensors["codes"], int(settings["alphabet"]))
        self.levels = tensors["levels"].contiguous()
        self.group_size, self.groups = int(settings["group_size"]), self.levels.shape[1]
        self.table = {
            "SIZE": self.levels.shape[2],
            "SYMMETRIC": bool(settings["symmetric"]),
            "BY_ROW": len(self.levels) > 1,
        }
        self.kernel_of_codes = WordsKernel(
            one=_one,
            many=_many,
            shape=packed.shape,
            words=words,
            codes=codes,
            stride=codes.shape[1],
            factor=tensors["scale"].expand(rows).contiguous(),
            tables=(self.levels, self.group_size, self.groups),
            constants={
                **self.table,
                "ONE": self.groups == 1,
                # whether the codes of a word share a table
                "WHOLE": self.groups == 1 or self.group_size % words.per == 0,
            },
        )
        self.tail = self._tail_of(packed) if settings["tail"] else None
        added = () if self.tail is None else self.tail.added
        super().__init__(packed, self.kernel_of_codes.factor, *added)

    def _tail_of(self, packed: PackedTensor) -> Tail:
        tensors, positions = packed.tensors, tail_positions(packed)
        self.coded = TAIL_KIND not in packed.settings
        self.outside = tail_code_bits_outside(int(packed.settings["alphabet"]))
        self.tail_levels = tensors["tail_levels"] if self.coded else self.levels  # or not read
        self.tail_scale = tensors["tail_scale"] if self.coded else self.levels
        values = _tail_codes(packed, positions) if self.coded else tensors["tail_values"]
        return Tail(positions, packed.shape, values)

    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        add = None if self.tail is None else partial(self._add_tail, x, self.tail)
        self.kernel_of_codes.multiply(x, bias, y, add)

    def _add_tail(self, x: Tensor, tail: Tail, out: Tensor) -> None:
        _tail[tail.grid(len(x))](
            x,
            tail.starts,
            tail.columns,
            tail.values,
            self.tail_levels,
            self.tail_scale,
            self.levels,
            out,
            self.rows,
            self.columns,
            self.group_size,
            self.groups,
            CODED=self.coded,
            OUTSIDE=self.outside,
            **self.table,
            **tail.constants(),
            **OPTIONS,
        )


def _tail_codes(packed: PackedTensor, positions: Tensor) -> Tensor:
    """The code of every tail entry, 0 … 3: (n,) uint8."""
    alphabet, columns = int(packed.settings["alphabet"]), packed.shape[1]
    codes = streams.symbols_at(packed.tensors["codes"], alphabet, positions // columns, positions % columns)
    if tail_code_bits_outside(alphabet):
        low = bits.unpack_fields(packed.tensors["tail_bits"][None], 1, len(positions))[0]
        codes = codes << 1 | low
    return codes.to(torch.uint8)


@triton.jit
def _level_at(levels, base, code, SIZE: tl.constexpr, SYMMETRIC: tl.constexpr):
    """The level that a code means in the table at `base`, float32."""
    if SYMMETRIC:
        lower = code < SIZE
        magnitude = tl.load(levels + base + tl.where(lower, SIZE - 1 - code, code - SIZE)).to(tl.float32)
        level = tl.where(lower, -magnitude, magnitude)
    else:
        level = tl.load(levels + base + code).to(tl.float32)
    return level


@triton.jit
def _levels_at(levels, base, SIZE: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Up to four levels of the table at `base`; those that there are not repeat the last."""
    LAST: tl.constexpr = (2 * SIZE if SYMMETRIC else SIZE) - 1
    a = _level_at(levels, base, 0, SIZE, SYMMETRIC)
    b = _level_at(levels, base, 1, SIZE, SYMMETRIC)
    c = _level_at(levels, base, min(2, LAST), SIZE, SYMMETRIC)
    d = _level_at(levels, base, min(3, LAST), SIZE, SYMMETRIC)
    return a, b, c, d


@triton.jit
def _one_of(code, a, b, c, d, COUNT: tl.constexpr):
    """The level that a code of up to four means."""
    level = tl.where((code & 1) == 1, b, a)
    if COUNT > 2:
        level = tl.where(code >= 2, tl.where((code & 1) == 1, d, c), level)
    return level


@triton.jit(do_not_specialize=["tokens"])
def _one(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride, levels, group_size, groups,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, SIZE: tl.constexpr, SYMMETRIC: tl.constexpr, BY_ROW: tl.constexpr,
    ONE: tl.constexpr, WHOLE: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    BT: tl.constexpr, DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows and a part of the columns for one token."""
    COUNT: tl.constexpr = 2 * SIZE if SYMMETRIC else SIZE
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    table = safe * (groups * SIZE) if BY_ROW else safe * 0
    total = tl.zeros((BN, BW), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        word = first + tl.arange(0, BW)
        known = tl.minimum(word, words - 1)
        packed = read_words(codes, safe * stride, known[None, :], stride, WIDTH, LOADS)
        base = table if ONE else table + (known * PER // group_size * SIZE)[None, :]
        if WHOLE and COUNT <= 4:
            a, b, c, d = _levels_at(levels, base, SIZE, SYMMETRIC)
        for s in tl.static_range(PER):
            code = symbol_of(packed, s, BITS, ALPHABET)
            column = word * PER + s
            if WHOLE and COUNT <= 4:
                level = _one_of(code, a, b, c, d, COUNT)
            else:
                if not WHOLE:
                    base = table + (tl.minimum(column, columns - 1) // group_size * SIZE)[None, :]
                level = _level_at(levels, base, code, SIZE, SYMMETRIC)
            values = tl.load(x + column, mask=column < columns, other=0.0)
            total += level * values.to(tl.float32)[None, :]
    sums, token = tl.sum(total, axis=1)[:, None], tl.arange(0, BT)[None, :]
    store_sums(out, sums, factor, bias, row, token, tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit(do_not_specialize=["tokens"])
def _many(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride, levels, group_size, groups,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, SIZE: tl.constexpr, SYMMETRIC: tl.constexpr, BY_ROW: tl.constexpr,
    ONE: tl.constexpr, WHOLE: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    BT: tl.constexpr, DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows and a part of the columns for BT tokens."""
    COUNT: tl.constexpr = 2 * SIZE if SYMMETRIC else SIZE
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.program_id(2) * BT + tl.arange(0, BT)
    table = safe * (groups * SIZE) if BY_ROW else safe * 0
    total = tl.zeros((BN, BT), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        word = first + tl.arange(0, BW)
        known = tl.minimum(word, words - 1)
        packed = read_words(codes, safe * stride, known[None, :], stride, WIDTH, LOADS)
        code = symbols_of(packed, PER, LANES, BITS, ALPHABET)
        base = table if ONE else table + (known * PER // group_size * SIZE)[None, :]
        if WHOLE and COUNT <= 4:
            a, b, c, d = _levels_at(levels, base, SIZE, SYMMETRIC)
            level = _one_of(code, a[:, :, None], b[:, :, None], c[:, :, None], d[:, :, None], COUNT)
        elif WHOLE:
            level = _level_at(levels, base[:, :, None], code, SIZE, SYMMETRIC)
        else:
            column = tl.minimum((word * PER)[:, None] + tl.arange(0, LANES)[None, :], columns - 1)
            base = table[:, :, None] + (column // group_size * SIZE)[None, :, :]
            level = _level_at(levels, base, code, SIZE, SYMMETRIC)
        values = load_columns(x, token, tokens, first, columns, PER, LANES, BW)
        tile = tl.reshape(level.to(values.dtype), (BN, BW * LANES))
        total = tl.dot(tile, values, total, input_precision=PRECISION)
    store_sums(out, total, factor, bias, row, token[None, :], tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit
def _tail(
    x, starts, places, entries, tail_levels, tail_scale, levels, out, rows, columns, group_size, groups,
    CODED: tl.constexpr, OUTSIDE: tl.constexpr,
    SIZE: tl.constexpr, SYMMETRIC: tl.constexpr, BY_ROW: tl.constexpr,
    WIDE: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """What the tail adds for one token and BN rows: the entries' values less what the codes under them
    mean.
    """
    token = tl.program_id(0)
    row = tl.program_id(1) * BN + tl.arange(0, BN)
    safe = tl.minimum(row, rows - 1)
    begin, end = tl.load(starts + safe), tl.load(starts + safe + 1)
    if CODED:
        row_scale = tl.load(tail_scale + safe).to(tl.float32)[:, None]
    total = tl.zeros((BN, BE), tl.float32)
    for first in range(0, tl.max(end - begin), BE):
        at = begin[:, None] + first + tl.arange(0, BE)[None, :]
        inside = at < end[:, None]
        column = tl.load(places + at, mask=inside, other=0).to(tl.int32)
        if not WIDE:
            column = column & 0xFFFF
        value = tl.load(entries + at, mask=inside, other=0)
        code = (value.to(tl.int32) >> OUTSIDE) if CODED else tl.zeros((BN, BE), tl.int32)
        base = column // group_size * SIZE
        if BY_ROW:
            base = base + safe[:, None] * (groups * SIZE)
        level = _level_at(levels, base, code, SIZE, SYMMETRIC)
        if CODED:
            tail = row_scale * tl.load(tail_levels + value.to(tl.int32)).to(tl.float32)
        else:
            tail = value.to(tl.float32)
        values = tl.load(x + token.to(tl.int64) * columns + column, mask=inside, other=0.0)
        total += tl.where(inside, tail - level, 0.0) * values.to(tl.float32)
    tl.store(out + token.to(tl.int64) * rows + row, tl.sum(total, axis=1), mask=row < rows)
