# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""Words of codes for Triton's kernels: how the symbols of a row lie in words, and the launch of a kernel over
them.

The symbols of a word are taken apart in registers. For one token a program goes through them one after the
other, so that all tiles have a number for each row and word. For more tokens a tile has all symbols of its
words, in the order of the columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.encoding.bits import RADIX
from bivlm.kernels.triton_shared import (
    OPTIONS,
    Sums,
    dot_dtype,
    parts_of,
    precision_of,
    tokens_of_a_program,
)

ROWS_OF_ONE, WORDS_OF_ONE = 32, 32  # of a tile for one token
ROWS_OF_MANY, SYMBOLS_OF_MANY = 64, 64  # of a tile for more tokens


class Words(NamedTuple):
    """How the symbols of a row lie in words: `per` of them in a word of `width` bits, of `bits` bits each, or
    the digits of a number in base `alphabet` where `bits` is 0. A word lies in `loads` bytes at most; one of
    32 or 16 bits is loaded at once.
    """

    per: int
    width: int
    bits: int
    alphabet: int
    loads: int

    @property
    def lanes(self) -> int:
        """`per`, rounded up to a power of two."""
        return triton.next_power_of_2(self.per)

    def constants(self) -> dict[str, int]:
        """Those of a kernel that reads such words."""
        return {
            "PER": self.per,
            "LANES": self.lanes,
            "WIDTH": self.width,
            "BITS": self.bits,
            "ALPHABET": self.alphabet,
            "LOADS": self.loads,
        }


def words_of(stream: Tensor, alphabet: int) -> tuple[Words, Tensor]:
    """How to read the symbols of `stream` (rows, bytes), and the stream in the dtype that its words are
    loaded in: (rows, 32-bit words) int32, or the bytes.
    """
    per, width = RADIX[alphabet]
    stream = stream.contiguous()
    if per == 1 and width in (1, 2, 4, 8):
        if stream.shape[1] % 4 == 0 and stream.data_ptr() % 4 == 0:
            return Words(32 // width, 32, width, 0, 1), stream.view(torch.int32)
        return Words(8 // width, 8, width, 0, 1), stream
    bits = width if per == 1 else 0
    if width in (3, 6):
        per, width = 24 // width, 24
    loads = (width + 15 - math.gcd(8, width)) // 8
    return Words(per, width, bits, alphabet, loads), stream


@dataclass(frozen=True, eq=False)
class WordsKernel:
    """Two kernels over words with the weight that they multiply.

    one, many  Triton's functions for one token and for more, which take (x, codes, out, factor, bias, tokens,
               rows, columns, words, stride, *tables) and the constants
    shape      (rows, columns)
    factor     (rows,) float32, of the sums
    """

    one: Any
    many: Any
    shape: tuple[int, int]
    words: Words
    codes: Tensor
    stride: int  # of the rows, in elements of `codes`
    factor: Tensor
    tables: tuple[Any, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)

    def multiply(
        self,
        x: Tensor,
        bias: Tensor | None,
        y: Tensor,
        add: Callable[[Tensor], None] | None = None,
        precision: str | None = None,
    ) -> None:
        """x (tokens, columns), contiguous, into y (tokens, rows). `add` writes further sums, (tokens, rows)
        float32, which the factor multiplies as well. `precision`: how float32 is multiplied, if not as y's
        dtype asks for.
        """
        (rows, columns), tokens, tile = self.shape, len(x), tokens_of_a_program(len(x))
        if tile == 1:
            kernel, height, width = self.one, ROWS_OF_ONE, WORDS_OF_ONE
        else:
            kernel, height, width = self.many, ROWS_OF_MANY, max(1, SYMBOLS_OF_MANY // self.words.lanes)
            x = x.to(dot_dtype(x.dtype))
        count, grid = -(-columns // self.words.per), (triton.cdiv(rows, height), triton.cdiv(tokens, tile))
        parts = parts_of(x.device, grid[0] * grid[1], triton.cdiv(count, width))
        sums = Sums(y, parts, add is not None)
        kernel[(grid[0], parts, grid[1])](
            x,
            self.codes,
            sums.out,
            self.factor,
            self.factor if bias is None else bias,
            tokens,
            rows,
            columns,
            count,
            self.stride,
            *self.tables,
            **self.words.constants(),
            **self.constants,
            BN=height,
            BW=width,
            BT=tile,
            DIRECT=sums.direct,
            BIAS=bias is not None,
            PRECISION=precision or precision_of(y.dtype),
            **OPTIONS,
        )
        if add is not None:
            add(sums.out[-1])
        sums.finish(self.factor, bias)


@triton.jit
def read_words(codes, begin, word, row_bytes, WIDTH: tl.constexpr, LOADS: tl.constexpr):
    """The words (rows, words) int32; `begin` (rows, 1) is where the rows begin in `codes`, `word` (1, words)
    which words. Bytes after a row's last are zero.
    """
    if WIDTH == 32:
        value = tl.load(codes + begin + word)
    else:
        bit = word * WIDTH
        byte = bit >> 3
        value = tl.load(codes + begin + byte).to(tl.int32)
        for i in tl.static_range(1, LOADS):
            further = tl.load(codes + begin + byte + i, mask=byte + i < row_bytes, other=0)
            value = value | (further.to(tl.int32) << (8 * i))
        if WIDTH % 8 != 0:
            value = (value >> (bit & 7)) & ((1 << WIDTH) - 1)
    return value


@triton.jit
def symbol_of(word, S: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr):
    """Symbol S of words: a field of BITS bits, or a digit."""
    if BITS > 0:
        symbol = (word >> (S * BITS)) & ((1 << BITS) - 1)
    else:
        symbol = (word // (ALPHABET**S)) % ALPHABET
    return symbol


@triton.jit
def symbols_of(word, PER: tl.constexpr, LANES: tl.constexpr, BITS: tl.constexpr, ALPHABET: tl.constexpr):
    """All symbols of words (rows, words): (rows, words, LANES), zeros from PER on."""
    lane = tl.arange(0, LANES)[None, None, :]
    if BITS > 0:
        symbols = (word[:, :, None] >> (lane * BITS)) & ((1 << BITS) - 1)
    else:
        power = tl.full((1, 1, LANES), 1, tl.int32)
        for s in tl.static_range(1, PER):
            power = tl.where(lane == s, ALPHABET**s, power)
        symbols = tl.where(lane < PER, (word[:, :, None] // power) % ALPHABET, 0)
    return symbols


@triton.jit
def load_columns(
    x, token, tokens, first, columns,
    PER: tl.constexpr, LANES: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """The inputs of the symbols of BW words, from `first` on, for the tokens: (BW * LANES, tokens); zeros
    where there is none.
    """
    if PER == LANES:  # neighbouring numbers are then seen to be neighbours, and loaded together
        column = first * PER + tl.arange(0, BW * LANES)
    else:
        lane = tl.arange(0, LANES)[None, :]
        word = first + tl.arange(0, BW)[:, None]
        column = tl.reshape(tl.where(lane < PER, word * PER + lane, columns), (BW * LANES,))
    places = token[None, :].to(tl.int64) * columns + column[:, None]
    return tl.load(x + places, mask=(column < columns)[:, None] & (token < tokens)[None, :], other=0.0)
