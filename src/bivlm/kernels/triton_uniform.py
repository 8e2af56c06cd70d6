# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""`uniform` in Triton: words of codes are taken apart in registers, less their zero point, times their scale.

    y[i, t] = factor[i] · Σ_j (code(i, j) − zero(i, g)) (scale(i, g) · norm) (column_scale[j] x[t, j])
              + bias[i]

For one token the scale of a group multiplies the sum over a word, not every code. The inputs are multiplied
by the column scales, relative to the largest. `norm`, a power of two, keeps tiles within float16, whatever
the scales are; `factor` has the rest: 2^exponent, the unit of a row's eight-bit scales, 1 / norm.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.uniform import UniformWeight
from bivlm.kernels.triton_shared import OPTIONS, TritonProduct, power_of_two_for, store_sums
from bivlm.kernels.triton_words import (
    WordsKernel,
    load_columns,
    read_words,
    symbol_of,
    symbols_of,
    words_of,
)


def product(packed: PackedTensor) -> UniformProduct:
    """The product of a weight in `uniform`. ValueError for what `check_packed` refuses."""
    return UniformProduct(packed)


class UniformProduct(TritonProduct):
    """The product with one weight. In addition to the packed tensors it holds a factor for each row, zero
    points that are codes in a byte each, and the relative column scales.
    """

    def __init__(self, packed: PackedTensor) -> None:
        UniformWeight.check_packed(packed)
        tensors, settings, rows = packed.tensors, packed.settings, packed.shape[0]
        alphabet, self.group_size = int(settings["alphabet"]), int(settings["group_size"])
        self.words, self.codes = words_of(tensors["codes"], alphabet)
        self.scales, self.middle = tensors["scales"].contiguous(), (alphabet - 1) / 2
        self.groups, added = self.scales.shape[1], []
        self.zero_kind, self.zeros = settings["zero_point"], tensors.get("zero_points", self.scales)
        if self.zero_kind == "code":
            self.zeros = bits.unpack_symbols(self.zeros, alphabet, self.groups).contiguous()
            added.append(self.zeros)
        zeros = (
            self.zeros.float()
            if self.zero_kind != "middle"
            else self.zeros.new_full((), self.middle, dtype=torch.float32)
        )
        reach = torch.maximum(zeros.abs(), (alphabet - 1 - zeros).abs())
        self.norm = power_of_two_for(float((self.scales[..., 0].float() * reach).max()))
        factor = 2.0 ** int(settings["exponent"]) / self.norm
        self.column_scale = None
        if settings["column_scale"]:
            largest = float(tensors["column_scale"].max())
            factor *= largest
            self.column_scale = tensors["column_scale"].float() / largest
            added.append(self.column_scale)
        unit = tensors["scale_unit"][:, 0].double() if "scale_unit" in tensors else self.scales.new_ones(rows)
        self.factor = (unit.double() * factor).float().contiguous()
        super().__init__(packed, self.factor, *added)
        self.kernel_of_codes = WordsKernel(
            one=_one,
            many=_many,
            shape=packed.shape,
            words=self.words,
            codes=self.codes,
            stride=self.codes.shape[1],
            factor=self.factor,
            tables=(self.scales, self.zeros, self.norm, self.group_size, self.groups),
            constants={
                "MIDDLE": self.middle if self.zero_kind == "middle" else -1.0,
                "WHOLE": self.groups == 1 or self.group_size % self.words.per == 0,
            },
        )

    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        if self.column_scale is not None:
            scaled = x * self.column_scale
            x = scaled if len(x) == 1 else scaled.to(x.dtype)
        self.kernel_of_codes.multiply(x, bias, y)

    def look_up(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of W that `index` (…) int64 names: (…, columns) of a dtype. A row that there is not is
        NaN: asking for it is no error here, because the device would have to be waited for.
        """
        names = index.reshape(-1).contiguous()
        out = torch.empty(len(names), self.columns, dtype=torch.float32, device=index.device)
        count = -(-self.columns // self.words.per)
        width = min(max(1, 256 // self.words.lanes), triton.next_power_of_2(count))
        if len(names):
            with torch.cuda.device_of(index):
                _rows[(len(names), triton.cdiv(count, width))](
                    names,
                    self.codes,
                    out,
                    self.factor,
                    self.rows,
                    self.columns,
                    count,
                    self.codes.shape[1],
                    *self.kernel_of_codes.tables,
                    **self.words.constants(),
                    **self.kernel_of_codes.constants,
                    BW=width,
                    **OPTIONS,
                )
            if self.column_scale is not None:
                out *= self.column_scale
        return out.to(dtype).view(*index.shape, self.columns)


@triton.jit
def _numbers(scales, zeros, norm, place, MIDDLE: tl.constexpr):
    """Scale and zero point of a group, float32."""
    scale = tl.load(scales + place).to(tl.float32) * norm
    if MIDDLE >= 0:
        zero = tl.full(place.shape, MIDDLE, tl.float32)
    else:
        zero = tl.load(zeros + place).to(tl.float32)
    return scale, zero


@triton.jit
def _values(
    code, row_groups, word, columns, scales, zeros, norm, group_size,
    PER: tl.constexpr, LANES: tl.constexpr, MIDDLE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The values of all symbols of words: (rows, words, LANES). row_groups (rows, 1): a row's first group."""
    if WHOLE:
        first = tl.minimum(word * PER, columns - 1) // group_size
        scale, zero = _numbers(scales, zeros, norm, row_groups + first[None, :], MIDDLE)
        scale, zero = scale[:, :, None], zero[:, :, None]
    else:
        column = tl.minimum((word * PER)[:, None] + tl.arange(0, LANES)[None, :], columns - 1)
        place = row_groups[:, :, None] + (column // group_size)[None, :, :]
        scale, zero = _numbers(scales, zeros, norm, place, MIDDLE)
    return (code.to(tl.float32) - zero) * scale


@triton.jit(do_not_specialize=["tokens"])
def _one(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride,
    scales, zeros, norm, group_size, groups,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, MIDDLE: tl.constexpr, WHOLE: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, BT: tl.constexpr, DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows and a part of the columns for one token."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    total = tl.zeros((BN, BW), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        word = first + tl.arange(0, BW)
        known = tl.minimum(word, words - 1)
        packed = read_words(codes, safe * stride, known[None, :], stride, WIDTH, LOADS)
        if WHOLE:
            place = safe * groups + (known * PER // group_size)[None, :]
            scale, zero = _numbers(scales, zeros, norm, place, MIDDLE)
        sums = tl.zeros((BN, BW), tl.float32)
        for s in tl.static_range(PER):
            code = symbol_of(packed, s, BITS, ALPHABET).to(tl.float32)
            column = word * PER + s
            values = tl.load(x + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
            if WHOLE:
                sums += (code - zero) * values
            else:
                place = safe * groups + (tl.minimum(column, columns - 1) // group_size)[None, :]
                scale, zero = _numbers(scales, zeros, norm, place, MIDDLE)
                sums += (code - zero) * scale * values
        total += sums * scale if WHOLE else sums
    sums, token = tl.sum(total, axis=1)[:, None], tl.arange(0, BT)[None, :]
    store_sums(out, sums, factor, bias, row, token, tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit(do_not_specialize=["tokens"])
def _many(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride,
    scales, zeros, norm, group_size, groups,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, MIDDLE: tl.constexpr, WHOLE: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, BT: tl.constexpr, DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows and a part of the columns for BT tokens."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.program_id(2) * BT + tl.arange(0, BT)
    total = tl.zeros((BN, BT), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        word = first + tl.arange(0, BW)
        known = tl.minimum(word, words - 1)
        packed = read_words(codes, safe * stride, known[None, :], stride, WIDTH, LOADS)
        code = symbols_of(packed, PER, LANES, BITS, ALPHABET)
        value = _values(
            code, safe * groups, word, columns, scales, zeros, norm, group_size, PER, LANES, MIDDLE, WHOLE
        )
        values = load_columns(x, token, tokens, first, columns, PER, LANES, BW)
        tile = tl.reshape(value.to(values.dtype), (BN, BW * LANES))
        total = tl.dot(tile, values, total, input_precision=PRECISION)
    store_sums(out, total, factor, bias, row, token[None, :], tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit
def _rows(
    index, codes, out, factor, rows, columns, words, stride,
    scales, zeros, norm, group_size, groups,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, MIDDLE: tl.constexpr, WHOLE: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Some words of one row, without the column scales."""
    n = tl.program_id(0).to(tl.int64)
    row = tl.load(index + n)
    there = (row >= 0) & (row < rows)
    row = tl.where(there, row, 0)
    word = tl.program_id(1) * BW + tl.arange(0, BW)
    known = tl.minimum(word, words - 1)
    packed = read_words(codes, row * stride, known[None, :], stride, WIDTH, LOADS)
    code = symbols_of(packed, PER, LANES, BITS, ALPHABET)
    first = (row * groups + tl.arange(0, 1))[:, None]
    value = _values(code, first, word, columns, scales, zeros, norm, group_size, PER, LANES, MIDDLE, WHOLE)
    value = tl.where(there, value * tl.load(factor + row), float("nan"))
    lane = tl.arange(0, LANES)[None, None, :]
    column = word[None, :, None] * PER + lane
    tl.store(out + n * columns + column, value, mask=(lane < PER) & (column < columns))
