"""`PackedLinear`: what stands in a model where an `nn.Linear` stood.

Its buffers are the packed tensors under the names that they have in the checkpoint, so that loading is a plain copy. It has no parameters but the
bias, keeps its buffers' dtypes whatever `model.to(dtype)` says, and follows that dtype in what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.formats.base import PackedTensor
from bivlm.kernels import reference

Kernel = Callable[[Tensor, PackedTensor, Tensor | None], Tensor]

KERNELS: dict[tuple[str, str], Kernel] = {
    ("factors", "cpu"): reference.linear,
    ("factors", "cuda"): reference.linear,
    ("levels", "cpu"): reference.linear,
    ("levels", "cuda"): reference.linear,
    ("planes", "cpu"): reference.linear,
    ("planes", "cuda"): reference.linear,
    ("uniform", "cpu"): reference.linear,
    ("uniform", "cuda"): reference.linear,
}


class PackedLinear(nn.Module):
    """A linear whose weight is a `PackedTensor`. `compute_dtype` is the dtype that the model's other weights have."""

    def __init__(self, packed: PackedTensor, bias: Tensor | None, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.format, self.settings = packed.format, dict(packed.settings)
        self.out_features, self.in_features = packed.shape
        self.compute_dtype = compute_dtype
        self.tensor_names = tuple(packed.tensors)
        for name, tensor in packed.tensors.items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self._expanded: Tensor | None = None

    @property
    def packed(self) -> PackedTensor:
        tensors = {name: getattr(self, name) for name in self.tensor_names}
        return PackedTensor(self.format, (self.out_features, self.in_features), tensors, self.settings)

    def forward(self, x: Tensor) -> Tensor:
        if self._expanded is not None:
            return nn.functional.linear(x, self._expanded.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        return KERNELS[self.format, x.device.type](x, self.packed, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        """Move with the model, but never round the packed tensors: a dtype change only becomes the new `compute_dtype`."""
        before = {name: getattr(self, name) for name in self.tensor_names}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved = getattr(self, name)
            if moved.dtype != tensor.dtype:
                setattr(self, name, tensor.to(moved.device))
        self.compute_dtype = fn(torch.empty(0, dtype=self.compute_dtype)).dtype
        return self

    @property
    def weight(self) -> Tensor:
        """A stand-in of the right shape, dtype and device that takes no memory: modelling code reads `proj.weight.dtype`.

        Its values mean nothing; `packed` has the weight. transformers' initialization skips tensors that carry `_is_hf_initialized`.
        """
        device = getattr(self, self.tensor_names[0]).device
        stand_in = torch.empty(1, dtype=self.compute_dtype, device=device).expand(self.out_features, self.in_features)
        stand_in._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
        return stand_in

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, format={self.format}"


def replace_linear(root: nn.Module, name: str, packed: PackedTensor) -> PackedLinear:
    """Put a `PackedLinear` where the linear `name` of `root` stands, with its bias and dtype; returns the new module."""
    linear = root.get_submodule(name)
    assert isinstance(linear, nn.Linear), name
    replacement = PackedLinear(packed, linear.bias, linear.weight.dtype)
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, replacement)
    return replacement


def packed_linears(model: nn.Module) -> Mapping[str, PackedLinear]:
    """Every packed linear of `model` by its name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}


def expand_weights(model: Any) -> None:
    """Decode every packed weight once and keep it beside the packed tensors: the same numbers, more memory, no decoding at each call.

    Worth it when a model answers many questions with the reference kernel; the packed tensors stay what they are.
    """
    from bivlm.formats import FORMATS

    for linear in packed_linears(model).values():
        linear._expanded = FORMATS[linear.format].decode(linear.packed).dequantize().to(linear.compute_dtype)
