"""The common part of the native library's products for all formats.

Few tokens: one call of the library, which decodes the weights during the product. Many tokens: tiles of rows
are unpacked into a small scratch buffer, and torch's matrix product does the rest. The whole weight is never
unpacked at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.kernels import reference
from bivlm.kernels.base import check_width
from bivlm.native.pointers import pointer
from bivlm.native.structs import DTYPES

SCRATCH_BYTES = 1 << 22
CPU = torch.device("cpu")


class FewTokens(NamedTuple):
    """The most tokens for one call of the library, by the dtype of x: `full` for float32, `short` for 16
    bits, `rounded` for 16 bits if the library may round x to eight bits.

    Above this number unpacking is faster. In float32 the number is larger, because the matrix product itself
    is slow. benchmarks/bench_few_tokens.py measures it.
    """

    full: int
    short: int
    rounded: int

    def of(self, dtype: torch.dtype, int8: bool) -> int:
        return self.full if dtype == torch.float32 else self.rounded if int8 else self.short


class Functions(NamedTuple):
    """The library's functions for a weight at an address (csrc/include/bivlm.h): one product, several
    together, unpacking.
    """

    address: int
    linear: Callable[..., int]
    linear_many: Callable[..., int]
    unpack: Callable[..., int]


class NativeProduct:
    """The product with one weight (rows, columns). x float32, bfloat16 or float16; any other dtype goes to
    the reference kernel. ValueError for an x or a bias of another size, or that is not on the CPU.

    `few` says up to how many tokens the library multiplies.
    """

    kernel, why = "native", ""
    tile_rows: ClassVar[int] = 1  # rows that are unpacked together
    added_bytes: int

    def __init__(
        self,
        packed: PackedTensor,
        shape: tuple[int, int],
        few: FewTokens,
        functions: Functions,
    ) -> None:
        self.packed, (self.rows, self.columns), self.few = packed, shape, few
        self.functions = functions

    def unpacked_inputs(self, x: Tensor) -> Tensor:
        """The inputs for the product with unpacked rows, from x (tokens, in)."""
        return x

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        dtype = DTYPES.get(x.dtype)
        if dtype is None:
            return reference.linear(x, self.packed, bias)
        check_width(x, self.columns)
        *leading, columns = x.shape
        tokens, x = x.numel() // columns, x.contiguous()
        place, to_add = pointer("x", x, x.dtype, tokens * columns), None
        if bias is not None:
            bias = bias.to(x.dtype).contiguous()
            to_add = pointer("bias", bias, x.dtype, self.rows)
        y = torch.empty(*leading, self.rows, dtype=x.dtype, device=CPU)
        if tokens > self.few.of(x.dtype, int8):
            self._many(self.unpacked_inputs(x.view(tokens, columns)), bias, y.view(tokens, self.rows))
        elif tokens:
            out, threads = pointer("y", y, x.dtype, tokens * self.rows), torch.get_num_threads()
            address, linear, *_ = self.functions
            succeed(linear(address, place, columns, tokens, dtype, out, to_add, int8, threads))
        return y

    def _many(self, x: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """x (tokens, in) into y (tokens, out), a tile of rows at a time."""
        fitting = SCRATCH_BYTES // (self.columns * x.element_size())
        step = min(self.rows, max(1, fitting // self.tile_rows) * self.tile_rows)
        scratch, threads = x.new_empty(step, self.columns), torch.get_num_threads()
        place = pointer("scratch", scratch, x.dtype, step * self.columns)
        for start in range(0, self.rows, step):
            end = min(start + step, self.rows)
            succeed(
                self.functions.unpack(self.functions.address, start, end, place, DTYPES[x.dtype], threads)
            )
            tile, into = scratch[: end - start].t(), y[:, start:end]
            if bias is None:
                torch.mm(x, tile, out=into)
            else:
                torch.addmm(bias[start:end], x, tile, out=into)


def succeed(code: int) -> None:
    """RuntimeError for an error of the library: the arguments were checked before, so the error is a bug of
    this package.
    """
    if code:
        raise RuntimeError(
            f"the native kernel refused a weight that it should know (error {code}): please report it;"
            " BIVLM_KERNEL=reference avoids it"
        )
