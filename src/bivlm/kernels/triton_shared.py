# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false
# (pyright sees the bodies of Triton's functions as Python, with constexpr and tensor as the types of numbers)
"""What Triton's kernels of all formats share: words of codes, sums over pieces of the columns, and the product
that a kernel prepares.

    out[i, t] = factor[i] · Σ_j value(i, j) x[t, j] + bias[i]

A program decodes a tile of values, some rows by some columns, and multiplies it while it is in registers: for
one token by multiplication and addition, for more tokens by `tl.dot`. Sums are float32. If the rows alone
would leave much of the device idle, the columns are split into parts, whose sums a second kernel adds, always
in the same order. Nothing here waits for the device, so that a product can be captured in a CUDA graph.

Under TRITON_INTERPRET=1, set before Triton is imported, the same functions run on the CPU in numpy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.bits import RADIX
from bivlm.kernels import reference
from bivlm.kernels.base import check_width

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}
LEAST_DOT = 16  # the smallest side of a tile that `tl.dot` takes
MOST_TOKENS = 64  # of a program; more tokens take more programs, which decode again
PROGRAMS_PER_PROCESSOR = 4  # as many programs keep a multiprocessor busy
MOST_PARTS = 16
LARGEST = 2.0**13  # what the largest value of a tile is scaled to at most: float16 must hold it


class Words(NamedTuple):
    """How the codes of a row lie in words: `per` symbols in a word of `width` bits, of `bits` bits each, or
    the digits of a number in base `alphabet` where `bits` is 0. A word lies in `loads` bytes at most; one of
    32 bits is read at once.
    """

    per: int
    width: int
    bits: int
    alphabet: int
    loads: int

    def arguments(self) -> dict[str, int]:
        """The constants of a kernel that reads such words."""
        return {
            "PER": self.per,
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
    if per == 1 and width in (1, 2, 4, 8):
        if stream.is_contiguous() and stream.shape[1] % 4 == 0 and stream.data_ptr() % 4 == 0:
            return Words(32 // width, 32, width, 0, 1), stream.view(torch.int32)
        return Words(8 // width, 8, width, 0, 1), stream.contiguous()
    bits = width if per == 1 else 0
    if width in (3, 6):
        per, width = 24 // width, 24
    loads = (width + 15 - math.gcd(8, width)) // 8
    return Words(per, width, bits, alphabet, loads), stream.contiguous()


def dot_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which tiles are multiplied for inputs of `dtype`: their own. Triton's interpreter cannot
    multiply bfloat16, and gives numbers that look like any others.
    """
    return torch.float32 if INTERPRETED and dtype == torch.bfloat16 else dtype


def precision_of(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies float32 for inputs of `dtype`: exactly for float32, else in TensorFloat-32 where
    there is such a thing, which keeps more of a number than a 16-bit input has.
    """
    return "ieee" if dtype == torch.float32 or torch.version.hip else "tf32"


def power_of_two_for(largest: float) -> float:
    """A power of two that scales `largest` into a range where float16 is exact enough."""
    if largest == 0.0:
        return 1.0
    return 2.0 ** max(-100, min(100, math.floor(math.log2(LARGEST / largest))))


@cache
def processors(device: torch.device) -> int:
    """The multiprocessors of a device."""
    if device.type == "cpu":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def parts_of(device: torch.device, programs: int, steps: int) -> int:
    """Into how many parts the columns are split: enough to keep the device busy, a power of two, and with at
    least two of the `steps` of a program's loop in each part.
    """
    wanted = min(MOST_PARTS, PROGRAMS_PER_PROCESSOR * processors(device) // programs, steps // 2)
    return 1 << max(0, wanted.bit_length() - 1)


def tokens_of_a_program(tokens: int) -> int:
    """How many tokens a program multiplies with: 1, or as many as a tile for `tl.dot` has."""
    return 1 if tokens == 1 else min(MOST_TOKENS, max(LEAST_DOT, triton.next_power_of_2(tokens)))


def by_symbol(x: Tensor, per: int) -> Tensor:
    """x (tokens, columns) as (tokens, per, words): all first symbols of the words, then all second ones, so
    that a tile of neighbouring words reads neighbouring numbers. Missing columns are zeros.
    """
    tokens, columns = x.shape
    words = -(-columns // per)
    padded = torch.nn.functional.pad(x, (0, words * per - columns))
    return padded.view(tokens, words, per).transpose(1, 2).contiguous()


class Inputs(NamedTuple):
    """The inputs of a kernel over words, and the distances of neighbouring tokens, words and symbols in
    them.
    """

    x: Tensor
    token: int
    word: int
    symbol: int


def inputs_of(x: Tensor, per: int) -> Inputs:
    """x (tokens, columns) as it is for one token, in the order of the symbols for more."""
    if len(x) == 1 or per == 1:
        return Inputs(x, x.shape[1], per, 1)
    ordered = by_symbol(x, per)
    return Inputs(ordered, ordered.shape[1] * ordered.shape[2], 1, ordered.shape[2])


class Sums:
    """Where the programs of a product put their sums: the output itself, or (parts, tokens, rows) float32 that
    `finish` adds up. `further` parts are kept for other kernels (a tail).
    """

    def __init__(self, y: Tensor, parts: int, further: int = 0) -> None:
        self.y, self.parts, self.direct = y, parts, parts + further == 1
        shape = (parts + further, *y.shape)
        self.out = y if self.direct else torch.empty(shape, dtype=torch.float32, device=y.device)

    def finish(self, factor: Tensor, bias: Tensor | None) -> None:
        """y = factor · the sum of the parts + bias."""
        if not self.direct:
            tokens, rows = self.y.shape
            block = min(256, triton.next_power_of_2(rows))
            grid = (tokens, triton.cdiv(rows, block))
            add_parts[grid](
                self.out,
                self.y,
                factor,
                factor if bias is None else bias,
                len(self.out),
                tokens,
                rows,
                BIAS=bias is not None,
                BLOCK=block,
                **OPTIONS,
            )


class TritonProduct(ABC):
    """The product with one weight (rows, columns) on a CUDA or ROCm device. x float32, bfloat16 or float16;
    any other dtype goes to the reference kernel. ValueError for an x of another width or device.

    The call makes its output and what lies between its kernels; torch's allocator keeps that memory.
    """

    kernel: ClassVar[str] = "triton"
    why: ClassVar[str] = ""
    added_bytes: int

    def __init__(self, packed: PackedTensor, *added: Tensor) -> None:
        self.packed, (self.rows, self.columns) = packed, packed.shape
        self.device = next(iter(packed.tensors.values())).device
        self.added_bytes = sum(tensor.nbytes for tensor in added)

    @abstractmethod
    def multiply(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """x (tokens, columns), contiguous, into y (tokens, rows); at least one token."""

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        if x.dtype not in DTYPES:
            return reference.linear(x, self.packed, bias)
        check_width(x, self.columns)
        if x.device != self.device:
            raise ValueError(f"the input is on {x.device}, and the packed weight on {self.device}")
        tokens = x.numel() // self.columns
        y = torch.empty(tokens, self.rows, dtype=x.dtype, device=x.device)
        if tokens:
            with torch.cuda.device_of(x):
                self.multiply(x.reshape(tokens, self.columns).contiguous(), bias, y)
        return y.view(*x.shape[:-1], self.rows)


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
def store_sums(
    out, sums, factor, bias, row, token, part, tokens, rows, DIRECT: tl.constexpr, BIAS: tl.constexpr
):
    """Sums (rows, tokens) into (parts, tokens, rows), or, DIRECT, as the result. row (rows, 1), token (1,
    tokens).
    """
    if DIRECT:
        sums = sums * tl.load(factor + row, mask=row < rows, other=0.0)
        if BIAS:
            sums = sums + tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)
    place = (part * tokens + token).to(tl.int64) * rows + row
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=(row < rows) & (token < tokens))


@triton.jit(do_not_specialize=["tokens", "parts"])
def add_parts(sums, y, factor, bias, parts, tokens, rows, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    """y[t, i] = factor[i] Σ_p sums[p, t, i] + bias[i]."""
    token = tl.program_id(0)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(parts):
        place = (part * tokens + token).to(tl.int64) * rows + row
        total += tl.load(sums + place, mask=inside, other=0.0)
    total *= tl.load(factor + row, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + row, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + token.to(tl.int64) * rows + row, total.to(y.dtype.element_ty), mask=inside)


INTERPRETED = not isinstance(add_parts, triton.JITFunction)
