"""The products of several weights together: those of a layer's chosen experts.

    y[rows of p] = x[rows of p] W_pᵀ + bias_p,      the rows of x in the order of the products

On the CPU one call of the native library makes all products of a codec: it divides the rows of all weights
among its threads, reads every weight where it lies, and prepares once what products have in common. The
numbers are those of the products one by one. On a card Triton makes them in one launch. A weight without such
a kernel, and one with so many rows that its own product is faster, is multiplied alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor

from bivlm.kernels.base import Product, check_width
from bivlm.kernels.native_product import SCRATCH_BYTES, NativeProduct, succeed
from bivlm.native.pointers import pointer
from bivlm.native.structs import DTYPES, ProductStruct

INPUT_BYTES = 4  # of a prepared number: the inputs of a call fill SCRATCH_BYTES at most
ON_CARDS = "bivlm.kernels.triton_together"


class Part(NamedTuple):
    """A product with the number of rows of the input that are its own, at least one."""

    product: Product
    bias: Tensor | None
    rows: int
    int8: bool


class Place(NamedTuple):
    """A part with the number of its first row."""

    part: Part
    first: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.part.rows)


def multiply(parts: Sequence[Part], x: Tensor, out_features: int) -> Tensor:
    """The outputs (t, out) of all parts for x (t, in), part after part, in x's dtype; neighbouring rows of x
    may be the same memory. ValueError for an x of another width.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty(len(x), out_features, dtype=x.dtype, device=x.device)
    groups: dict[Hashable, list[Place]] = {}
    first = 0
    for part in parts:
        place = Place(part, first)
        first += part.rows
        if (key := _key(part, x)) is None:
            y[place.rows] = part.product(x[place.rows], part.bias, part.int8)
        else:
            groups.setdefault(key, []).append(place)
    for places in groups.values():
        (_multiply_native if places[0].part.product.kernel == "native" else _multiply_on_card)(places, x, y)
    return y


def _key(part: Part, x: Tensor) -> Hashable:
    """What parts must have in common to be multiplied together; None for a part that is multiplied alone."""
    product = part.product
    if x.dtype not in DTYPES:
        return None
    if isinstance(product, NativeProduct):
        fits = part.rows <= product.few.of(x.dtype, part.int8)
        return (id(product.functions.linear_many), part.int8) if fits else None
    if product.kernel == "triton":
        key = import_module(ON_CARDS).key_of(product, part.rows)
        return None if key is None else (key, part.bias is None)
    return None


def _multiply_native(places: Sequence[Place], x: Tensor, y: Tensor) -> None:
    """Some rows of x into those of y by one function of the library."""
    pointer("x", x[:1], x.dtype, x.shape[1])  # further rows differ only by their distance
    size, stride = x.element_size(), x.stride(0)
    kept, calls = [], []
    for part, first in places:
        product, bias = part.product, None
        assert isinstance(product, NativeProduct)
        check_width(x, product.columns)
        if part.bias is not None:
            kept.append(part.bias.to(x.dtype).contiguous())
            bias = pointer("bias", kept[-1], x.dtype, product.rows)
        into = y.data_ptr() + first * product.rows * size
        given = x.data_ptr() + first * stride * size
        calls.append((product.functions.address, given, stride, part.rows, into, bias))
    one = places[0].part
    assert isinstance(one.product, NativeProduct)
    for some in _batches(calls, SCRATCH_BYTES // (x.shape[1] * INPUT_BYTES)):
        products, threads = (ProductStruct * len(some))(*some), torch.get_num_threads()
        succeed(one.product.functions.linear_many(products, len(some), DTYPES[x.dtype], one.int8, threads))


Call = tuple[int, int, int, int, int, int | None]  # the fields of ProductStruct


def _batches(calls: Sequence[Call], most: int) -> Iterator[list[Call]]:
    """The calls in their order, those of at most `most` rows at a time, or one."""
    some: list[Call] = []
    rows = 0
    for call in calls:
        if some and rows + call[3] > most:
            yield some
            some, rows = [], 0
        some.append(call)
        rows += call[3]
    yield some


def _multiply_on_card(places: Sequence[Place], x: Tensor, y: Tensor) -> None:
    """Some rows of x into those of y in one launch."""
    whole = sum(place.part.rows for place in places) == len(x)
    given = (x if whole else torch.cat([x[place.rows] for place in places])).contiguous()
    found = y if whole else y.new_empty(len(given), y.shape[1])
    products, biases, rows, _ = zip(*(place.part for place in places), strict=True)
    import_module(ON_CARDS).multiply(products, biases, rows, given, found)
    if not whole:
        for place, own in zip(places, found.split(rows), strict=True):
            y[place.rows] = own
