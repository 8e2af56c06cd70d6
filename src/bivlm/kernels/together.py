"""The products of several weights in one call of the native library: those of a layer's chosen experts.

    y[rows of p] = x[rows of p] W_pᵀ + bias_p,      the rows of x in the order of the products

The library divides the rows of all weights among its threads and reads every weight where it lies; inputs
that several products share are prepared once. The numbers are those of the products one by one. A weight
without the library's kernel, and one with so many rows that unpacking it is faster, is multiplied by its own
product.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bivlm.kernels.base import Product, check_width
from bivlm.kernels.native_product import CPU, SCRATCH_BYTES, NativeProduct, succeed
from bivlm.native.pointers import pointer
from bivlm.native.structs import DTYPES, ProductStruct

INPUT_BYTES = 4  # of a prepared number: the most inputs of a call fill SCRATCH_BYTES


class Part(NamedTuple):
    """A product with the rows of the input that are its own; at least one."""

    product: Product
    bias: Tensor | None
    rows: int
    int8: bool


def multiply(parts: Sequence[Part], x: Tensor, out_features: int) -> Tensor:
    """The outputs (t, out) of all parts for x (t, in), part after part, in x's dtype; neighbouring rows of x
    may be the same memory. ValueError for an x of another width or not on the CPU.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty(len(x), out_features, dtype=x.dtype, device=CPU)
    calls: dict[tuple[int, bool], _Calls] = {}
    first = 0
    for part in parts:
        end, product = first + part.rows, part.product
        if (
            isinstance(product, NativeProduct)
            and x.dtype in DTYPES
            and part.rows <= product.few.of(x.dtype, part.int8)
        ):
            function = product.functions.linear_many
            key = id(function), part.int8
            if key not in calls:
                calls[key] = _Calls(function, part.int8, x, y)
            calls[key].add(product, part, first)
        else:
            y[first:end] = product(x[first:end], part.bias, part.int8)
        first = end
    for some in calls.values():
        some.make()
    return y


class _Calls:
    """The products that one function of the library makes, with the same kind of activations."""

    def __init__(self, function: Callable[..., int], int8: bool, x: Tensor, y: Tensor) -> None:
        check = x[:1]  # of the whole only the strides of its rows may differ from those of a row alone
        pointer("x", check, x.dtype, check.numel())
        self.function, self.int8, self.x, self.y = function, int8, x, y
        self.found: list[tuple[int, int, int, int, int, int | None]] = []
        self.kept: list[Tensor] = []

    def add(self, product: NativeProduct, part: Part, first: int) -> None:
        check_width(self.x, product.columns)
        to_add, size = None, self.x.element_size()
        if part.bias is not None:
            self.kept.append(part.bias.to(self.x.dtype).contiguous())
            to_add = pointer("bias", self.kept[-1], self.x.dtype, product.rows)
        stride = self.x.stride(0)
        self.found.append(
            (
                product.functions.address,
                self.x.data_ptr() + first * stride * size,
                stride,
                part.rows,
                self.y.data_ptr() + first * product.rows * size,
                to_add,
            )
        )

    def make(self) -> None:
        dtype, threads = DTYPES[self.x.dtype], torch.get_num_threads()
        for products in self._batches():
            succeed(self.function(products, len(products), dtype, self.int8, threads))

    def _batches(self) -> Iterator[ctypes.Array[ProductStruct]]:
        """The products, as many at a time as leave the library's scratch small."""
        most = max(1, SCRATCH_BYTES // (self.x.shape[1] * INPUT_BYTES))
        some: list[tuple[int, int, int, int, int, int | None]] = []
        rows = 0
        for call in self.found:
            if some and rows + call[3] > most:
                yield (ProductStruct * len(some))(*some)
                some, rows = [], 0
            some.append(call)
            rows += call[3]
        yield (ProductStruct * len(some))(*some)
