# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""`trellis` in Triton: the inputs are rotated, and multiplied with levels that are decoded in registers.

    y = diag(row_scale) T (R x) + bias

A program has a strip of 64 rows and some columns. The windows of a few neighbouring rows overlap, so that one
field of 32 bits holds all of them: it is put together from three loads, and its windows are taken out by
shifts. The level of a window is loaded from the table, which stays in the first-level cache. Levels are small
whole numbers, exact in every dtype; the row scales are applied to the sums.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats import trellis
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.trellis_code import standard_tables
from bivlm.kernels.triton_rotation import Rotation
from bivlm.kernels.triton_shared import (
    OPTIONS,
    Sums,
    TritonProduct,
    dot_dtype,
    parts_of,
    precision_of,
    store_sums,
    tokens_of_a_program,
)

FIELD = 32  # bits that hold the windows of neighbouring rows
COLUMNS = {1: 32, 16: 64}  # of a tile, by the tokens of a program; 32 for more


def product(packed: PackedTensor) -> TrellisProduct:
    """The product of a weight in `trellis`. ValueError for what `check_packed` refuses."""
    return TrellisProduct(packed)


@cache
def _standard(window: int, device: torch.device) -> Tensor:
    return standard_tables(window).to(device)


class TrellisProduct(TritonProduct):
    """The product with one weight. In addition to the packed tensors it holds the row scales as float32, the
    places of the runs in a strip, and the rotation's signs. The standard tables and the transforms are shared
    by all weights and not counted.
    """

    def __init__(self, packed: PackedTensor) -> None:
        weight = trellis.TrellisWeight.decode(packed)
        device, columns = weight.codes.device, weight.columns
        widths = trellis.column_bits(weight.bits, columns)
        self.factor = trellis.row_factors(weight.row_scale, weight.exponent).contiguous()
        before = (widths.cumsum(0) - widths)[:: trellis.RUN]
        self.before = before.to(torch.int32).contiguous()  # the K of all columns before a run, added up
        self.strip_bytes = trellis.strip_bytes(trellis.STRIP, widths)
        self.last_height = trellis.strips(len(weight.row_scale))[-1]
        self.codes = weight.codes.contiguous()
        self.halves = self.codes.clone() if self.codes.data_ptr() % 2 else self.codes
        self.halves = self.halves.view(torch.int16)  # of an even number of bytes: every strip has one
        self.bits, self.window = weight.bits.contiguous(), weight.window
        self.table = weight.table.contiguous() if weight.table.numel() else _standard(weight.window, device)
        most = int(weight.bits.max())
        self.neighbours = 8 if 7 * most + weight.window <= FIELD else 4
        self.rotation = Rotation(weight.signs(), weight.blocks, device) if weight.rotated else None
        added = [self.factor, self.before]
        super().__init__(packed, *added, *([self.rotation.signs] if self.rotation else []))

    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        tokens, tile = len(x), tokens_of_a_program(len(x))
        if self.rotation:
            x = self.rotation.rotate(x, torch.float32 if tile == 1 else dot_dtype(x.dtype))
        elif tile > 1:
            x = x.to(dot_dtype(x.dtype))
        strips, width = -(-self.rows // trellis.STRIP), COLUMNS.get(tile, 32)
        programs = strips * triton.cdiv(tokens, tile)
        sums = Sums(y, parts_of(x.device, programs, triton.cdiv(self.columns, width)))
        _product[(strips, sums.parts, triton.cdiv(tokens, tile))](
            x,
            self.halves,
            self.bits,
            self.before,
            self.table,
            sums.out,
            self.factor,
            self.factor if bias is None else bias,
            tokens,
            self.rows,
            self.columns,
            self.strip_bytes // 2,
            self.last_height,
            len(self.halves),
            WINDOW=self.window,
            NEIGHBOURS=self.neighbours,
            BK=width,
            BT=tile,
            DIRECT=sums.direct,
            BIAS=bias is not None,
            PRECISION=precision_of(y.dtype),
            **OPTIONS,
        )
        sums.finish(self.factor, bias)

    def look_up(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of W that `index` (…) int64 names: (…, columns) of a dtype. A row that there is not is
        NaN: asking for it is no error here, because the device would have to be waited for.
        """
        names = index.reshape(-1).contiguous()
        rows = torch.empty(len(names), self.columns, dtype=torch.float32, device=index.device)
        if len(names):
            block = min(256, triton.next_power_of_2(self.columns))
            with torch.cuda.device_of(index):
                _rows[(len(names), triton.cdiv(self.columns, block))](
                    names,
                    self.codes,
                    self.bits,
                    self.before,
                    self.table,
                    self.factor,
                    rows,
                    self.rows,
                    self.columns,
                    self.strip_bytes,
                    self.last_height,
                    len(self.codes),
                    WINDOW=self.window,
                    BLOCK=block,
                    **OPTIONS,
                )
                rows = self.rotation.rotate_back(rows) if self.rotation else rows
        return rows.to(dtype).view(*index.shape, self.columns)


@triton.jit
def _fields(halves, begin, height, group, column, k, before, count, inside, WINDOW: tl.constexpr):
    """32 bits of a strip from the first bit on that a window of the first row of each group reads: (groups,
    columns). `group` (groups, 1) is that row; column, k, before (1, columns).
    """
    at = (
        before * height + k * (height * (column % 16) + group + 1) + 16 - WINDOW
    )  # bits from the strip's begin
    half = begin + (at >> 4)
    shift = (at & 15).to(tl.uint32)
    low = tl.load(halves + half, mask=inside, other=0).to(tl.uint32) & 0xFFFF
    middle = tl.load(halves + half + 1, mask=inside & (half + 1 < count), other=0).to(tl.uint32) & 0xFFFF
    high = tl.load(halves + half + 2, mask=inside & (half + 2 < count), other=0).to(tl.uint32) & 0xFFFF
    return ((low | (middle << 16)) >> shift) | ((high << 16) << (16 - shift))


@triton.jit(do_not_specialize=["tokens"])
def _product(
    x, halves, bits, before, table, out, factor, bias, tokens, rows, columns, strip_halves,
    last_height, count,
    WINDOW: tl.constexpr, NEIGHBOURS: tl.constexpr, BK: tl.constexpr, BT: tl.constexpr,
    DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A strip, a part of its columns and BT tokens; x (tokens, columns) is rotated."""
    GROUPS: tl.constexpr = 64 // NEIGHBOURS
    strip, part = tl.program_id(0), tl.program_id(1)
    height = tl.where(strip == tl.num_programs(0) - 1, last_height, 64)
    begin = strip.to(tl.int64) * strip_halves
    group = tl.arange(0, GROUPS)[:, None] * NEIGHBOURS
    neighbour = tl.arange(0, NEIGHBOURS)[None, :, None]
    token = tl.program_id(2) * BT + tl.arange(0, BT)
    if BT == 1:
        total = tl.zeros((GROUPS, NEIGHBOURS, BK), tl.float32)
    else:
        total = tl.zeros((64, BT), tl.float32)
    for first in range(part * BK, columns, tl.num_programs(1) * BK):
        column = first + tl.arange(0, BK)
        known = column < columns
        run = tl.where(known, column // 16, 0)
        k = tl.load(bits + run).to(tl.int32)[None, :]
        inside = (k > 0) & known[None, :] & (group < height)
        start = tl.load(before + run)[None, :]
        field = _fields(halves, begin, height, group, column[None, :], k, start, count, inside, WINDOW)
        moved = (neighbour * k[:, None, :]).to(tl.uint32)
        window = ((field[:, None, :] >> moved) & ((1 << WINDOW) - 1)).to(tl.int32)
        place = (tl.maximum(k - 1, 0) << WINDOW)[:, None, :] + window
        level = tl.load(table + place, mask=inside[:, None, :], other=0)
        if BT == 1:
            values = tl.load(x + tl.program_id(2).to(tl.int64) * columns + column, mask=known, other=0.0)
            total += level.to(tl.float32) * values.to(tl.float32)[None, None, :]
        else:
            places = token[None, :].to(tl.int64) * columns + column[:, None]
            values = tl.load(x + places, mask=known[:, None] & (token < tokens)[None, :], other=0.0)
            tile = tl.reshape(level.to(values.dtype), (64, BK))
            total = tl.dot(tile, values, total, input_precision=PRECISION)
    if BT == 1:
        total = tl.reshape(tl.sum(total, axis=2), (64, 1))
    row = strip * 64 + tl.arange(0, 64)[:, None]
    store_sums(out, total, factor, bias, row, token[None, :], part, tokens, rows, DIRECT, BIAS)


@triton.jit
def _rows(
    index, codes, bits, before, table, factor, out, rows, columns, strip_bytes, last_height, count,
    WINDOW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some columns of one row of diag(factor) T."""
    n = tl.program_id(0).to(tl.int64)
    row = tl.load(index + n)
    there = (row >= 0) & (row < rows)
    row = tl.where(there, row, 0)
    strip = row // 64
    height = tl.where(strip == (rows - 1) // 64, last_height, 64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = column < columns
    run = tl.where(known, column // 16, 0)
    k = tl.load(bits + run).to(tl.int32)
    at = (
        tl.load(before + run) * height
        + k * (height * (column % 16) + (row % 64).to(tl.int32) + 1)
        + 16
        - WINDOW
    )
    byte = strip * strip_bytes + (at >> 3)
    field = tl.load(codes + byte, mask=known & (byte < count), other=0).to(tl.int32)
    for i in tl.static_range(1, 3):
        further = tl.load(codes + byte + i, mask=known & (byte + i < count), other=0)
        field = field | (further.to(tl.int32) << (8 * i))
    window = (field >> (at & 7)) & ((1 << WINDOW) - 1)
    place = (tl.maximum(k - 1, 0) << WINDOW) + window
    level = tl.load(table + place, mask=known & (k > 0), other=0).to(tl.float32)
    value = tl.where(there, level * tl.load(factor + row), float("nan"))
    tl.store(out + n * columns + column, value, mask=known)
