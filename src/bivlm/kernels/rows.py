"""The kernel of `rows`, for every device: the product of each class by the kernel of its format, put into the
places of its rows.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.rows import RowsWeight, classes_of, row_classes_of
from bivlm.kernels.base import Product, check_width


class RowsProduct:
    """The product with one weight; `product_of` makes those of its classes. `added_bytes` are the numbers of
    the rows, and what the classes' products add. ValueError for a weight that the format refuses.
    """

    def __init__(self, packed: PackedTensor, product_of: Callable[[PackedTensor], Product]) -> None:
        RowsWeight.check_packed(packed)
        (self.rows, self.columns), classes = packed.shape, row_classes_of(packed)
        self.parts = [
            ((classes == k).nonzero()[:, 0], product_of(part))
            for k, part in enumerate(classes_of(packed).values())
            if part is not None
        ]
        products = [product for _, product in self.parts]
        slowest = slowest_of(products)
        self.kernel, self.why = slowest.kernel, slowest.why
        self.added_bytes = sum(index.nbytes + product.added_bytes for index, product in self.parts)

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        check_width(x, self.columns)
        shape = (*x.shape[:-1], self.rows)
        y = x.new_zeros(shape) if bias is None else bias.to(x.dtype).expand(shape).clone()
        for index, product in self.parts:
            y.index_copy_(-1, index, product(x, None if bias is None else bias[index], int8))
        return y


def slowest_of(products: list[Product]) -> Product:
    """The product that says what a container's kernel is: one of the reference kernel if there is any, and
    otherwise one that is not torch's own.
    """
    order = {"reference": 0, "torch": 2}
    return min(products, key=lambda product: order.get(product.kernel, 1))
