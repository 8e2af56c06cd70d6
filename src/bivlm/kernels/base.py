"""The result of a kernel: a product with one packed weight, made once and called often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor

Activations = Literal["float", "int8"]
ACTIVATIONS: tuple[Activations, ...] = ("float", "int8")


class Product(Protocol):
    """y = x Wᵀ + bias with x (…, in) and y (…, out), both of x's dtype.

    kernel       which kernel multiplies: "native", "triton", "torch" (its own product), "reference"
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


@runtime_checkable
class LooksUp(Protocol):
    """A product that also unpacks single rows of W."""

    def look_up(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows that `index` (…) int64 names: (…, columns) of a dtype; NaN for a row that there is not."""
        ...


Kernel = Callable[[PackedTensor], Product]


def check_width(x: Tensor, columns: int) -> None:
    """ValueError unless x is (…, columns)."""
    if x.shape[-1:] != (columns,):
        raise ValueError(f"the input is {list(x.shape)}; this linear takes (…, {columns})")
