"""The result of a kernel: a product with one packed weight, made once and called often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor

from bivlm.formats.base import PackedTensor

Activations = Literal["float", "int8"]
ACTIVATIONS: tuple[Activations, ...] = ("float", "int8")


class Product(Protocol):
    """y = x Wᵀ + bias with x (…, in) and y (…, out), both of x's dtype.

    kernel       which kernel multiplies: "native", "reference"
    why          why it is not a faster kernel; empty if there is none
    added_bytes  memory that it holds in addition to the packed tensors
    """

    kernel: str
    why: str
    added_bytes: int

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        """`int8` lets the kernel round x to eight bits if that is faster; a kernel that cannot use it ignores
        it.
        """
        ...


Kernel = Callable[[PackedTensor], Product]


def check_width(x: Tensor, columns: int) -> None:
    """ValueError unless x is (…, columns)."""
    if x.shape[-1:] != (columns,):
        raise ValueError(f"the input is {list(x.shape)}; this linear takes (…, {columns})")
