# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (Triton's functions are not what pyright takes them for)
"""What Triton's kernels of all formats share: the product that a kernel prepares, and sums over parts of the
columns.

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
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.kernels import reference
from bivlm.kernels.base import check_width

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}
LEAST_DOT = 16  # the smallest side of a tile that `tl.dot` takes
MOST_TOKENS = 64  # of a program; more tokens take more programs, which decode again
PROGRAMS_PER_PROCESSOR = 4  # as many programs keep a multiprocessor busy
MOST_PARTS = 16
LARGEST = 2.0**13  # what the largest value of a tile is scaled to at most: float16 must hold it


def dot_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which tiles are multiplied for inputs of `dtype`: their own. Triton's interpreter cannot
    multiply bfloat16, and gives numbers that look like any others.
    """
    return torch.float32 if INTERPRETED and dtype == torch.bfloat16 else dtype


def precision_of(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies float32 for inputs of `dtype`: exactly for float32, else in TensorFloat-32
    where there is such a thing, which keeps more of a number than a 16-bit input has.
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


class Sums:
    """Where the programs of a product put their sums: the output itself, or (parts, tokens, rows) float32
    that `finish` adds up. `further` parts are kept for other kernels (a tail).
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
