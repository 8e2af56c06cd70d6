# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""`factors` in Triton: two products with signs, one after the other.

    z = diag(middle_scale) B (column_scale ⊙ x),        y = diag(row_scale · 2^exponent) A z + bias

The inputs of both are float32, since z is a sum that float16 may not hold; for many tokens they are
multiplied in TensorFloat-32 if x has 16 bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.factors import FactorsWeight
from bivlm.kernels.triton_shared import TritonProduct, precision_of, store_sums
from bivlm.kernels.triton_words import (
    WordsKernel,
    load_columns,
    read_words,
    symbol_of,
    symbols_of,
    words_of,
)


def product(packed: PackedTensor) -> FactorsProduct:
    """The product of a weight in `factors`. ValueError for what `check_packed` refuses."""
    return FactorsProduct(packed)


class FactorsProduct(TritonProduct):
    """The product with one weight. In addition to the packed tensors it holds the three scales as float32."""

    def __init__(self, packed: PackedTensor) -> None:
        FactorsWeight.check_packed(packed)
        tensors, (rows, columns) = packed.tensors, packed.shape
        rank = int(packed.settings["rank"])
        row_scale = tensors["row_scale"].float() * 2.0 ** int(packed.settings["exponent"])
        self.left = _signs(tensors["left_signs"], (rows, rank), row_scale)
        self.right = _signs(tensors["right_signs"], (rank, columns), tensors["middle_scale"].float())
        self.column_scale = tensors["column_scale"].float()
        super().__init__(packed, self.left.factor, self.right.factor, self.column_scale)

    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        precision = precision_of(x.dtype)
        between = torch.empty(len(x), self.right.shape[0], dtype=torch.float32, device=x.device)
        self.right.multiply(x * self.column_scale, None, between, precision=precision)
        self.left.multiply(between, bias, y, precision=precision)


def _signs(stream: Tensor, shape: tuple[int, int], factor: Tensor) -> WordsKernel:
    """The product with a matrix of signs, its rows scaled."""
    words, codes = words_of(stream, 2)
    return WordsKernel(_one, _many, shape, words, codes, codes.shape[1], factor.contiguous())


@triton.jit(do_not_specialize=["tokens"])
def _one(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BT: tl.constexpr,
    DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows and a part of the columns for one token."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    total = tl.zeros((BN, BW), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        word = first + tl.arange(0, BW)
        known = tl.minimum(word, words - 1)
        packed = read_words(codes, safe * stride, known[None, :], stride, WIDTH, LOADS)
        for s in tl.static_range(PER):
            column = word * PER + s
            values = tl.load(x + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
            total += tl.where(symbol_of(packed, s, BITS, ALPHABET) == 1, values, -values)
    sums, token = tl.sum(total, axis=1)[:, None], tl.arange(0, BT)[None, :]
    store_sums(out, sums, factor, bias, row, token, tl.program_id(1), tokens, rows, DIRECT, BIAS)


@triton.jit(do_not_specialize=["tokens"])
def _many(
    x, codes, out, factor, bias, tokens, rows, columns, words, stride,
    PER: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr,
    LOADS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BT: tl.constexpr,
    DIRECT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN rows and a part of the columns for BT tokens."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    safe = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.program_id(2) * BT + tl.arange(0, BT)
    total = tl.zeros((BN, BT), tl.float32)
    for first in range(tl.program_id(1) * BW, words, tl.num_programs(1) * BW):
        known = tl.minimum(first + tl.arange(0, BW), words - 1)
        packed = read_words(codes, safe * stride, known[None, :], stride, WIDTH, LOADS)
        sign = symbols_of(packed, PER, LANES, BITS, ALPHABET) * 2 - 1
        values = load_columns(x, token, tokens, first, columns, PER, LANES, BW)
        tile = tl.reshape(sign.to(values.dtype), (BN, BW * LANES))
        total = tl.dot(tile, values, total, input_precision=PRECISION)
    store_sums(out, total, factor, bias, row, token[None, :], tl.program_id(1), tokens, rows, DIRECT, BIAS)
