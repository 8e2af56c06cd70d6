"""`PackedLinear` replaces an `nn.Linear` in a model. Its only parameter is the bias."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bivlm.families.linears import is_linear
from bivlm.formats.base import PackedTensor
from bivlm.packed.module import PackedModule, check_shape


class PackedLinear(PackedModule):
    """A linear whose weight is a `PackedTensor`."""

    def __init__(self, packed: PackedTensor, bias: Tensor | None, compute_dtype: torch.dtype) -> None:
        super().__init__(packed, compute_dtype)
        self.out_features, self.in_features = packed.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None},"
            f" format={self.format}"
        )


def replace_linear(root: nn.Module, name: str, packed: PackedTensor) -> PackedLinear:
    """Replace the linear `name` of `root` by a `PackedLinear` with its bias and dtype; returns the new
    module. InputError if the packed weight has another shape.
    """
    linear = root.get_submodule(name)
    assert is_linear(linear), name
    check_shape(name, packed, linear.weight)
    replacement = PackedLinear(packed, linear.bias, linear.weight.dtype)
    root.set_submodule(name, replacement)
    return replacement


def packed_linears(model: nn.Module) -> Mapping[str, PackedLinear]:
    """Every packed linear of `model` by its name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
