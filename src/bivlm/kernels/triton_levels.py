# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false
"""`levels` in Triton: words of codes are taken apart in registers, and each code becomes a level of its table.

    y[i, t] = scale · (Σ_j level(i, j) x[t, j] + Σ_tail (tail value − level(i, j)) x[t, j]) + bias[i]

Levels are float16 relative to `scale`, and stay so in a tile; `scale` is applied to the sums. A table of up to
four levels is chosen from in registers where all codes of a word share it; a larger one is loaded from, entry
by entry. The tail is a product of its own: its entries in rows, each with its column and its code.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.level_checks import TAIL_KIND, tail_code_bits_outside
from bivlm.formats.levels import LevelsWeight, tail_positions
from bivlm.kernels.triton_shared import (
    OPTIONS,
    Sums,
    TritonProduct,
    dot_dtype,
    inputs_of,
    parts_of,
    precision_of,
    read_words,
    store_sums,
    symbol_of,
    tokens_of_a_program,
    words_of,
)
from bivlm.kernels.triton_tail import Tail

ROWS = {1: 32, 16: 64}  # of a tile, by the tokens of a program; 64 for more
WORDS = {1: 32}  # of a tile; 16 for more tokens
SMALL = 4  # levels that are chosen from in registers


def product(packed: PackedTensor) -> LevelsProduct:
    """The product of a weight in `levels`. ValueError for what `check_packed` refuses."""
    return LevelsProduct(packed)


class LevelsProduct(TritonProduct):
    """The product with one weight. In addition to the packed tensors it holds `scale` for each row, and the
    tail in rows.
    """

    def __init__(self, packed: PackedTensor) -> None:
        LevelsWeight.check_packed(packed)
        tensors, settings, (rows, columns) = packed.tensors, packed.settings, packed.shape
        self.words, self.codes = words_of(tensors["codes"], int(settings["alphabet"]))
        self.levels = tensors["levels"].contiguous()
        self.symmetric = bool(settings["symmetric"])
        self.group_size, self.groups = int(settings["group_size"]), self.levels.shape[1]
        # whether the codes of a word share a table
        self.whole = self.groups == 1 or self.group_size % self.words.per == 0
        self.factor = tensors["scale"].expand(rows).contiguous()
        self.tail = None
        if settings["tail"]:
            coded = TAIL_KIND not in settings
            positions = tail_positions(packed)
            values = _tail_codes(packed, positions) if coded else tensors["tail_values"]
            self.tail = Tail(positions, packed.shape, values)
            self.tail_levels = tensors["tail_levels"] if coded else self.levels  # or not read
            self.tail_scale = tensors["tail_scale"] if coded else self.levels
            self.coded, self.outside = coded, tail_code_bits_outside(int(settings["alphabet"]))
        added = () if self.tail is None else self.tail.added
        super().__init__(packed, self.factor, *added)

    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        tokens, tile = len(x), tokens_of_a_program(len(x))
        inputs = inputs_of(x if tile == 1 else x.to(dot_dtype(x.dtype)), self.words.per)
        height, width, count = ROWS.get(tile, 64), WORDS.get(tile, 16), -(-self.columns // self.words.per)
        grid = (triton.cdiv(self.rows, height), triton.cdiv(tokens, tile))
        parts = parts_of(x.device, grid[0] * grid[1], triton.cdiv(count, width))
        sums = Sums(y, parts, self.tail is not None)
        _product[(grid[0], parts, grid[1])](
            inputs.x,
            self.codes,
            self.levels,
            sums.out,
            self.factor,
            self.factor if bias is None else bias,
            tokens,
            self.rows,
            self.columns,
            count,
            self.codes.shape[1],
            inputs.token,
            inputs.word,
            inputs.symbol,
            self.group_size,
            self.groups,
            **self.words.arguments(),
            **self._table(),
            PARTS=parts,
            BN=height,
            BW=width,
            BT=tile,
            DIRECT=sums.direct,
            BIAS=bias is not None,
            PRECISION=precision_of(y.dtype),
            **OPTIONS,
        )
        if self.tail is not None:
            self._add_tail(x, sums.out[-1])
        sums.finish(self.factor, bias)

    def _table(self) -> dict[str, int | bool]:
        """The constants of a kernel that looks levels up."""
        return {
            "SIZE": self.levels.shape[2],
            "SYMMETRIC": self.symmetric,
            "BY_ROW": len(self.levels) > 1,
            "WHOLE": self.whole,
        }

    def _add_tail(self, x: Tensor, out: Tensor) -> None:
        assert self.tail is not None
        _tail[self.tail.grid(len(x))](
            x,
            self.tail.starts,
            self.tail.columns,
            self.tail.values,
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
            **self._table(),
            **self.tail.arguments(),
            **OPTIONS,
        )


def _tail_codes(packed: PackedTensor, positions: Tensor) -> Tensor:
    """The code of every tail entry, 0 … 3: (n,) uint8."""
    alphabet, columns = int(packed.settings["alphabet"]), packed.shape[1]
    codes = bits.symbols_at(packed.tensors["codes"], alphabet, positions // columns, positions % columns)
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
def _one_of(code, a, b, c, d, COUNT: tl.constexpr):
    """The level that a code of up to four means."""
    level = tl.where((code & 1) == 1, b, a)
    if COUNT > 2:
        level = tl.where(code >= 2, tl.where((code & 1) == 1, d, c), level)
    return level


@triton.jit(do_not_specialize=["tokens"])
def _product(
    x, codes, levels, out, factor, bias, tokens, rows, columns, words, stride, x_token, x_word, x_symbol,
    group_size, groups,
    PER: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr, LOADS: tl.constexpr,
    SIZE: tl.constexpr, SYMMETRIC: tl.constexpr, BY_ROW: tl.constexpr, WHOLE: tl.constexpr,
    PARTS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BT: tl.constexpr,
    DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows, a part of the columns and BT tokens. x is read by token, word and symbol."""
    COUNT: tl.constexpr = 2 * SIZE if SYMMETRIC else SIZE
    part = tl.program_id(1)
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.program_id(2) * BT + tl.arange(0, BT)
    table = safe * (groups * SIZE) if BY_ROW else safe * 0
    total = tl.zeros((BN, BW if BT == 1 else BT), tl.float32)
    for first in range(part * BW, words, PARTS * BW):
        word = first + tl.arange(0, BW)
        known = tl.minimum(word, words - 1)
        packed = read_words(codes, safe * stride, known[None, :], stride, WIDTH, LOADS)
        if WHOLE:
            base = table + (known * PER // group_size * SIZE)[None, :] if groups > 1 else table
            if COUNT <= 4:
                a = _level_at(levels, base, 0, SIZE, SYMMETRIC)
                b = _level_at(levels, base, 1, SIZE, SYMMETRIC)
                c = _level_at(levels, base, min(2, COUNT - 1), SIZE, SYMMETRIC)
                d = _level_at(levels, base, min(3, COUNT - 1), SIZE, SYMMETRIC)
        for s in tl.static_range(PER):
            code = symbol_of(packed, s, BITS, ALPHABET)
            column = word * PER + s
            if not WHOLE:
                base = table + (tl.minimum(column, columns - 1) // group_size * SIZE)[None, :]
            if WHOLE and COUNT <= 4:
                level = _one_of(code, a, b, c, d, COUNT)
            else:
                level = _level_at(levels, base, code, SIZE, SYMMETRIC)
            place = word.to(tl.int64) * x_word + s * x_symbol
            if BT == 1:
                start = tl.program_id(2).to(tl.int64) * x_token
                values = tl.load(x + start + place, mask=column < columns, other=0.0)
                total += level * values.to(tl.float32)[None, :]
            else:
                places = place[:, None] + token[None, :].to(tl.int64) * x_token
                inside = (column < columns)[:, None] & (token < tokens)[None, :]
                values = tl.load(x + places, mask=inside, other=0.0)
                total = tl.dot(level.to(values.dtype), values, total, input_precision=PRECISION)
    if BT == 1:
        total = tl.sum(total, axis=1)[:, None]
    store_sums(out, total, factor, bias, row, token[None, :], part, tokens, rows, DIRECT, BIAS)


@triton.jit
def _tail(
    x, starts, places, entries, tail_levels, tail_scale, levels, out, rows, columns, group_size, groups,
    CODED: tl.constexpr, OUTSIDE: tl.constexpr,
    SIZE: tl.constexpr, SYMMETRIC: tl.constexpr, BY_ROW: tl.constexpr, WHOLE: tl.constexpr,
    WIDE: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """What the tail adds for one token and BN rows: the entries' values less what the codes under them mean."""
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
