"""The kernel of `lowrank`, for every device: two products in sequence, each by the kernel of its format."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.lowrank import LowrankWeight, factors_of
from bivlm.kernels.base import Product, check_width
from bivlm.kernels.rows import slowest_of


class LowrankProduct:
    """The product with one weight; `product_of` makes those of its factors. What lies between them has the
    dtype of the input. ValueError for a weight that the format refuses.
    """

    def __init__(self, packed: PackedTensor, product_of: Callable[[PackedTensor], Product]) -> None:
        LowrankWeight.check_packed(packed)
        self.columns = packed.shape[1]
        self.left, self.right = (product_of(part) for part in factors_of(packed).values())
        slowest = slowest_of([self.left, self.right])
        self.kernel, self.why = slowest.kernel, slowest.why
        self.added_bytes = self.left.added_bytes + self.right.added_bytes

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        check_width(x, self.columns)
        return self.left(self.right(x, None, int8), bias, int8)
