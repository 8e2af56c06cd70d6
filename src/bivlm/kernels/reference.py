"""The definition of every kernel: expand the packed weight, then an ordinary matrix product. It is slow;
faster kernels are tested against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats import format_named
from bivlm.formats.base import PackedTensor
from bivlm.kernels.base import check_width


class ReferenceProduct:
    """Holds only the packed tensors: every call expands the whole weight. ValueError for a weight that its
    format refuses.
    """

    kernel = "reference"
    added_bytes = 0

    def __init__(self, packed: PackedTensor, why: str = "") -> None:
        format_named(packed.format).check_packed(packed)
        self.packed, self.why = packed, why

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        return linear(x, self.packed, bias)


def linear(x: Tensor, packed: PackedTensor, bias: Tensor | None) -> Tensor:
    """y = x Wᵀ + bias with W expanded in float32 and rounded once to x's dtype. x is (…, in), y is (…,
    out). ValueError for what `decode` refuses.
    """
    check_width(x, packed.shape[1])
    weight = format_named(packed.format).decode(packed).dequantize().to(x.dtype)
    return torch.nn.functional.linear(x, weight, None if bias is None else bias.to(x.dtype))
