# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""`planes` in Triton. Plain planes are read in their blocks: 16 signs in a number next to their scale. All
others, with parts, salient columns, means, column scales or a tail, go through one kernel that looks every
number up.

    y[i, t] = 2^exponent · (Σ_j value(i, j) x[t, j] + Σ_tail (tail value − value(i, j)) x[t, j]) + bias[i]

`norm`, a power of two, keeps the tiles of the second kernel within float16, and the factor has 1 / norm.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits, streams
from bivlm.formats.encoding.plane_fields import parted_columns, read_numbers
from bivlm.formats.planes import PlanesWeight
from bivlm.kernels.triton_shared import (
    OPTIONS,
    Sums,
    TritonProduct,
    dot_dtype,
    parts_of,
    power_of_two_for,
    precision_of,
    store_sums,
    tokens_of_a_program,
)
from bivlm.kernels.triton_tail import Tail
from bivlm.kernels.triton_words import Words, WordsKernel, load_columns, symbol_of, symbols_of

ROWS, COLUMNS = 32, 64  # of a tile that looks every number up


def product(packed: PackedTensor) -> TritonProduct:
    """The product of a weight in `planes`. ValueError for what `check_packed` refuses."""
    PlanesWeight.check_packed(packed)
    return BlocksProduct(packed) if "blocks" in packed.tensors else PlanesProduct(packed)


class BlocksProduct(TritonProduct):
    """The product with a plain plane. In addition to the packed tensor it holds a one for each row."""

    def __init__(self, packed: PackedTensor) -> None:
        blocks, size = packed.tensors["blocks"].contiguous(), int(packed.settings["group_size"])
        width = 16 if size % 16 == 0 and blocks.data_ptr() % 2 == 0 else 8
        codes = blocks.flatten(1).view(torch.int16) if width == 16 else blocks.flatten(1)
        factor = torch.ones(len(blocks), dtype=torch.float32, device=blocks.device)
        words = Words(width, width, 1, 0, 1)
        super().__init__(packed, factor)
        self.kernel_of_blocks = WordsKernel(
            _one, _many, packed.shape, words, codes, codes.shape[1], factor, tables=(size // width,)
        )

    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        self.kernel_of_blocks.multiply(x, bias, y)


class PlanesProduct(TritonProduct):
    """The product with any other weight. In addition to the packed tensors it holds a factor for each row,
    where each column's bits lie in the planes of some columns, the column scales of all columns, and the tail
    in rows.
    """

    def __init__(self, packed: PackedTensor) -> None:
        tensors, settings = packed.tensors, packed.settings
        fields = read_numbers(tensors, packed.shape, settings)
        salient, scales, means = fields["salient"], fields["scales"], fields["means"]
        largest = float(scales.expand().abs().max())
        column_scales = fields["column_scales"]
        if column_scales.numel():
            largest *= float(column_scales.abs().max())
        largest = 2 * largest + (0.0 if means is None else float(means.expand().abs().max()))
        self.norm = power_of_two_for(largest)
        factor = 2.0 ** int(settings["exponent"]) / self.norm
        self.factor = torch.full(packed.shape[:1], factor, dtype=torch.float32, device=salient.device)
        parted = parted_columns(salient, int(settings["parts"]), int(settings["salient_parts"]))
        self.part_at, self.second_at = _place_in_plane(parted), _place_in_plane(salient)
        nothing, signs = self.factor, tensors["signs"].contiguous()
        partition, second = tensors.get("partition", signs[:, :0]), tensors.get("second_signs", signs[:, :0])
        self.tables: tuple[Any, ...] = (
            signs,
            partition.contiguous(),
            second.contiguous(),
            self.part_at,
            self.second_at,
            scales.stored.contiguous(),
            scales.unit.contiguous() if scales.in_eight_bits else nothing,
            nothing if means is None else means.stored.contiguous(),
            means.unit.contiguous() if means is not None and means.in_eight_bits else nothing,
            column_scales if column_scales.numel() else nothing,
            self.norm,
            signs.shape[1],
            partition.shape[1],
            second.shape[1],
            int(settings["group_size"]),
            scales.stored.shape[1],
        )
        self.constants = {
            "P": int(settings["parts"]),
            "KINDS": scales.stored.shape[2],
            "MEANS": 0 if means is None else means.stored.shape[2],
            "PARTED": bool(parted.any()),
            "SALIENT": int(settings["salient_columns"]) > 0,
            "UNITS": scales.in_eight_bits,
            "MEAN_UNITS": means is not None and means.in_eight_bits,
            "SCALED": column_scales.numel() > 0,
        }
        self.tail = None
        if settings["tail"]:
            self.tail = Tail(fields["tail_positions"], packed.shape, _tail_codes(packed, fields))
        super().__init__(
            packed,
            self.factor,
            self.part_at,
            self.second_at,
            column_scales,
            *(self.tail.added if self.tail else ()),
        )

    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        tokens, tile = len(x), tokens_of_a_program(len(x))
        given = x if tile == 1 else x.to(dot_dtype(x.dtype))
        grid = (triton.cdiv(self.rows, ROWS), triton.cdiv(tokens, tile))
        parts = parts_of(x.device, grid[0] * grid[1], triton.cdiv(self.columns, COLUMNS))
        sums = Sums(y, parts, self.tail is not None)
        _product[(grid[0], parts, grid[1])](
            given,
            sums.out,
            self.factor,
            self.factor if bias is None else bias,
            tokens,
            self.rows,
            self.columns,
            *self.tables,
            **self.constants,
            BN=ROWS,
            BK=COLUMNS,
            BT=tile,
            DIRECT=sums.direct,
            BIAS=bias is not None,
            PRECISION=precision_of(y.dtype),
            **OPTIONS,
        )
        if self.tail is not None:
            self._add_tail(x, self.tail, sums.out[-1])
        sums.finish(self.factor, bias)

    def _add_tail(self, x: Tensor, tail: Tail, out: Tensor) -> None:
        _tail[tail.grid(len(x))](
            x,
            tail.starts,
            tail.columns,
            tail.values,
            self.packed.tensors["tail_scale"],
            self.packed.tensors["tail_zero"],
            out,
            self.rows,
            self.columns,
            *self.tables,
            **self.constants,
            **tail.constants(),
            **OPTIONS,
        )


def _place_in_plane(stored: Tensor) -> Tensor:
    """Where the bit of each column is in a plane of the columns `stored` (in,) bool; -1 if it is not: (in,)
    int32.
    """
    return torch.where(stored, stored.cumsum(0) - 1, -1).to(torch.int32)


def _tail_codes(packed: PackedTensor, fields: dict[str, Any]) -> Tensor:
    """The code of every tail entry: (n,) uint8."""
    positions, columns = fields["tail_positions"], packed.shape[1]
    low = streams.symbols_at(packed.tensors["signs"], 2, positions // columns, positions % columns)
    upper = bits.unpack_fields(packed.tensors["tail_bits"][None], 7, len(positions))[0]
    return upper.to(torch.uint8) << 1 | low.to(torch.uint8)


@triton.jit
def _signs_and_scales(codes, begin, word, group_words, WIDTH: tl.constexpr):
    """The signs of words in blocks, int32, and their scales, float32: (rows, words)."""
    if WIDTH == 16:
        block = begin + word // group_words * (1 + group_words)
        scale = tl.load(codes + block).to(tl.float16, bitcast=True)
        signs = tl.load(codes + block + 1 + word % group_words).to(tl.int32)
    else:
        block = begin + word // group_words * (2 + group_words)
        low, high = tl.load(codes + block).to(tl.int16), tl.load(codes + block + 1).to(tl.int16)
        scale = (low | (high << 8)).to(tl.float16, bitcast=True)
        signs = tl.load(codes + block + 2 + word % group_words).to(tl.int32)
    return signs, scale.to(tl.float32)


@triton.jit(do_not_specialize=["tokens"])
def _one(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride, group_words,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BT: tl.constexpr,
    DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows of blocks and a part of the columns for one token."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    total = tl.zeros((BN, BW), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        word = first + tl.arange(0, BW)
        known = tl.minimum(word, words - 1)[None, :]
        signs, scale = _signs_and_scales(codes, safe * stride, known, group_words, WIDTH)
        sums = tl.zeros((BN, BW), tl.float32)
        for s in tl.static_range(PER):
            column = word * PER + s
            values = tl.load(x + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
            sums += tl.where(symbol_of(signs, s, BITS, ALPHABET) == 1, values, -values)
        total += sums * scale
    sums, token = tl.sum(total, axis=1)[:, None], tl.arange(0, BT)[None, :]
    store_sums(out, sums, factor, bias, row, token, tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit(do_not_specialize=["tokens"])
def _many(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride, group_words,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BT: tl.constexpr,
    DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows of blocks and a part of the columns for BT tokens."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.program_id(2) * BT + tl.arange(0, BT)
    total = tl.zeros((BN, BT), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        known = tl.minimum(first + tl.arange(0, BW), words - 1)[None, :]
        signs, scale = _signs_and_scales(codes, safe * stride, known, group_words, WIDTH)
        positive = symbols_of(signs, PER, LANES, BITS, ALPHABET) == 1
        value = tl.where(positive, scale[:, :, None], -scale[:, :, None])
        values = load_columns(x, token, tokens, first, columns, PER, LANES, BW)
        tile = tl.reshape(value.to(values.dtype), (BN, BW * LANES))
        total = tl.dot(tile, values, total, input_precision=PRECISION)
    store_sums(out, total, factor, bias, row, token[None, :], tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit
def _bits(plane, row, stride, place, inside):
    """Bits of a plane (rows, columns): `place` (1, columns) in the streams of the rows (rows, 1)."""
    byte = tl.load(plane + row * stride + (place >> 3), mask=inside, other=0).to(tl.int32)
    return (byte >> (place & 7)) & 1


@triton.jit
def _scale_of(
    row, group, kind, column, inside, scales, unit, column_scales, norm, columns, groups,
    KINDS: tl.constexpr, UNITS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """The scales of a kind of numbers, or the means, float32."""
    number = tl.load(scales + (row * groups + group) * KINDS + kind, mask=inside, other=0).to(tl.float32)
    number = number * norm
    if UNITS:
        number = number * tl.load(unit + row * KINDS + kind, mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        number = number * tl.load(column_scales + kind * columns + column, mask=inside, other=0.0).to(
            tl.float32
        )
    return number


@triton.jit
def _values(
    row, column, columns, inside,
    signs, partition, second, part_at, second_at, scales, unit, means, mean_unit, column_scales, norm,
    stride, partition_stride, second_stride, group_size, groups,
    P: tl.constexpr, KINDS: tl.constexpr, MEANS: tl.constexpr, PARTED: tl.constexpr, SALIENT: tl.constexpr,
    UNITS: tl.constexpr, MEAN_UNITS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """The values (rows, columns) of some rows (rows, 1) and columns (1, columns), without the tail."""
    group = column // group_size
    part = tl.zeros_like(row * 0 + column).to(tl.int32)
    if PARTED:
        place = tl.load(part_at + column, mask=inside, other=-1)
        part = _bits(partition, row, partition_stride, place, inside & (place >= 0))
    kind, mean_kind, salient = part, part, part < 0
    if SALIENT:
        place = tl.load(second_at + column, mask=inside, other=-1)
        salient = salient | (place >= 0)
        kind, mean_kind = tl.where(salient, P + 2 * part, part), tl.where(salient, P + part, part)
    scale = _scale_of(
        row,
        group,
        kind,
        column,
        inside,
        scales,
        unit,
        column_scales,
        norm,
        columns,
        groups,
        KINDS,
        UNITS,
        SCALED,
    )
    value = tl.where(_bits(signs, row, stride, column, inside) == 1, scale, -scale)
    if MEANS > 0:
        value = value + _scale_of(
            row, group, mean_kind, column, inside, means, mean_unit, means, norm, columns, groups, MEANS,
            MEAN_UNITS, False,
        )  # fmt: skip
    if SALIENT:
        there = inside & salient
        scale = _scale_of(
            row, group, kind + 1, column, there, scales, unit, column_scales, norm, columns, groups, KINDS,
            UNITS, SCALED,
        )  # fmt: skip
        sign = _bits(second, row, second_stride, place, there)
        value = value + tl.where(salient, tl.where(sign == 1, scale, -scale), 0.0)
    return value


@triton.jit(do_not_specialize=["tokens"])
def _product(
    x, out, factor, bias, tokens, rows, columns,
    signs, partition, second, part_at, second_at, scales, unit, means, mean_unit, column_scales, norm,
    stride, partition_stride, second_stride, group_size, groups,
    P: tl.constexpr, KINDS: tl.constexpr, MEANS: tl.constexpr, PARTED: tl.constexpr, SALIENT: tl.constexpr,
    UNITS: tl.constexpr, MEAN_UNITS: tl.constexpr, SCALED: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, BT: tl.constexpr, DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows, a part of the columns and BT tokens."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.program_id(2) * BT + tl.arange(0, BT)
    total = tl.zeros((BN, BK if BT == 1 else BT), tl.float32)
    for first in range(tl.program_id(1) * BK, columns, tl.num_programs(1) * BK):
        column = first + tl.arange(0, BK)
        known = (column < columns)[None, :]
        value = _values(
            safe, column[None, :], columns, known,
            signs, partition, second, part_at, second_at, scales, unit, means, mean_unit, column_scales, norm,
            stride, partition_stride, second_stride, group_size, groups,
            P, KINDS, MEANS, PARTED, SALIENT, UNITS, MEAN_UNITS, SCALED,
        )  # fmt: skip
        if BT == 1:
            values = tl.load(x + column, mask=column < columns, other=0.0)
            total += value * values.to(tl.float32)[None, :]
        else:
            values = load_columns(x, token, tokens, first, columns, 1, 1, BK)
            total = tl.dot(value.to(values.dtype), values, total, input_precision=PRECISION)
    if BT == 1:
        total = tl.sum(total, axis=1)[:, None]
    store_sums(out, total, factor, bias, row, token[None, :], tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit
def _tail(
    x, starts, places, codes, tail_scale, tail_zero, out, rows, columns,
    signs, partition, second, part_at, second_at, scales, unit, means, mean_unit, column_scales, norm,
    stride, partition_stride, second_stride, group_size, groups,
    P: tl.constexpr, KINDS: tl.constexpr, MEANS: tl.constexpr, PARTED: tl.constexpr, SALIENT: tl.constexpr,
    UNITS: tl.constexpr, MEAN_UNITS: tl.constexpr, SCALED: tl.constexpr,
    WIDE: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """What the tail adds for one token and BN rows: the entries' values less what the planes hold there."""
    token = tl.program_id(0)
    row = tl.program_id(1) * BN + tl.arange(0, BN)
    safe = tl.minimum(row, rows - 1)
    begin, end = tl.load(starts + safe), tl.load(starts + safe + 1)
    scale = tl.load(tail_scale + safe).to(tl.float32)[:, None] * norm
    zero = tl.load(tail_zero + safe).to(tl.float32)[:, None]
    total = tl.zeros((BN, BE), tl.float32)
    for first in range(0, tl.max(end - begin), BE):
        at = begin[:, None] + first + tl.arange(0, BE)[None, :]
        inside = at < end[:, None]
        column = tl.load(places + at, mask=inside, other=0).to(tl.int32)
        if not WIDE:
            column = column & 0xFFFF
        value = _values(
            safe.to(tl.int64)[:, None], column, columns, inside,
            signs, partition, second, part_at, second_at, scales, unit, means, mean_unit, column_scales, norm,
            stride, partition_stride, second_stride, group_size, groups,
            P, KINDS, MEANS, PARTED, SALIENT, UNITS, MEAN_UNITS, SCALED,
        )  # fmt: skip
        code = tl.load(codes + at, mask=inside, other=0).to(tl.float32)
        values = tl.load(x + token.to(tl.int64) * columns + column, mask=inside, other=0.0)
        total += tl.where(inside, scale * (code - zero) - value, 0.0) * values.to(tl.float32)
    tl.store(out + token.to(tl.int64) * rows + row, tl.sum(total, axis=1), mask=row < rows)
