"""The product of a packed weight that torch can differentiate: nothing but the packed tensors is kept for the
backward pass, and the weight is decoded once in each direction.

    y = x Wᵀ + bias        ∂L/∂x = ∂L/∂y W

Without this a backward pass through a model would hold every decoded weight of it at the same time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bivlm.formats import format_named
from bivlm.formats.base import PackedTensor
from bivlm.kernels import reference


def linear(x: Tensor, packed: PackedTensor, bias: Tensor | None) -> Tensor:
    """y = x Wᵀ + bias by the reference kernel, differentiable once in x and in the bias: x (…, in), y (…,
    out) in x's dtype. The weight itself has no gradient.
    """
    return _Product.apply(x, bias, packed)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: PackedTensor) -> Tensor:
        ctx.packed, ctx.bias_dtype = packed, None if bias is None else bias.dtype
        return reference.linear(x, packed, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        [gradient] = gradients
        for_x = for_bias = None
        if ctx.needs_input_grad[0]:
            weight = format_named(ctx.packed.format).decode(ctx.packed).dequantize()
            for_x = gradient @ weight.to(gradient.dtype)
        if ctx.needs_input_grad[1]:
            for_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0).to(ctx.bias_dtype)
        return for_x, for_bias, None
