"""`PackedLinear`: what stands in a model where an `nn.Linear` stood.

Its buffers are the packed tensors under the names that they have in the checkpoint, so that loading is a plain copy. It has no parameters but the
bias, keeps its buffers' dtypes whatever `model.to(dtype)` says, and follows that dtype in what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.formats.base import PackedTensor
from bivlm.kernels import cpu, reference, trellis
from bivlm.kernels.base import ACTIVATIONS, Activations, Kernel, Product
from bivlm.kernels.operator import LINEAR, new_handle

KERNELS: dict[tuple[str, str], Kernel] = {
    ("factors", "cpu"): cpu.product,
    ("factors", "cuda"): reference.ReferenceProduct,
    ("levels", "cpu"): cpu.product,
    ("levels", "cuda"): reference.ReferenceProduct,
    ("planes", "cpu"): cpu.product,
    ("planes", "cuda"): reference.ReferenceProduct,
    ("trellis", "cpu"): trellis.product,
    ("trellis", "cuda"): reference.ReferenceProduct,
    ("uniform", "cpu"): cpu.product,
    ("uniform", "cuda"): reference.ReferenceProduct,
}


class PackedLinear(nn.Module):
    """A linear whose weight is a `PackedTensor`. `compute_dtype` is the dtype that the model's other weights have.

    `activations` "int8" allows the kernel to round the inputs of few tokens to eight bits (`set_activations`). The kernel prepares the weight at the
    first call, and again when a buffer was replaced; `product` has what it made.
    """

    def __init__(self, packed: PackedTensor, bias: Tensor | None, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.format, self.settings = packed.format, dict(packed.settings)
        self.out_features, self.in_features = packed.shape
        self.compute_dtype = compute_dtype
        self.tensor_names = tuple(packed.tensors)
        for name, tensor in packed.tensors.items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.activations: Activations = "float"
        self._expanded: Tensor | None = None
        self._begin()

    def _begin(self) -> None:
        """What is this module's own and no copy's: its handle, and what a kernel prepared."""
        self._handle = new_handle(self)
        self._product: Product | None = None
        self._sources: tuple[int, ...] = ()
        self._device = ""

    @property
    def packed(self) -> PackedTensor:
        tensors = {name: getattr(self, name) for name in self.tensor_names}
        return PackedTensor(self.format, (self.out_features, self.in_features), tensors, self.settings)

    def forward(self, x: Tensor) -> Tensor:
        if self._expanded is not None:
            return nn.functional.linear(x, self._expanded.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        if x.requires_grad and torch.is_grad_enabled():
            return reference.linear(x, self.packed, self.bias)  # the one that torch can differentiate
        return LINEAR(x, self.bias, self._handle, self.out_features, self.activations == "int8")

    def multiply(self, x: Tensor, bias: Tensor | None, int8: bool) -> Tensor:
        """What `bivlm::linear` does with this module."""
        return self.product("cpu" if x.is_cpu else x.device.type)(x, bias, int8)

    def product(self, device: str = "cpu") -> Product:
        """The product that this linear's calls on a device run through. It holds its tensors, so a new tensor cannot pass for one of them."""
        sources = tuple(map(id, self._buffers.values()))
        if self._product is None or sources != self._sources or device != self._device:
            self._product, self._sources, self._device = KERNELS[self.format, device](self.packed), sources, device
        return self._product

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

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._product = None  # the buffers are the same, what is in them may not be

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_handle", "_product", "_sources", "_device")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

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


def prepared_bytes(model: nn.Module) -> int:
    """Memory that the kernels hold beside the packed tensors of `model`: what they prepared so far, which is all of it once every linear has run."""
    return sum(linear._product.added_bytes for linear in packed_linears(model).values() if linear._product is not None)


def set_activations(model: nn.Module, activations: Activations) -> None:
    """Let every packed linear of `model` compute with its inputs as they are ("float"), or rounded to eight bits where that is faster ("int8")."""
    if activations not in ACTIVATIONS:
        raise InputError(f"activations is {activations!r}; needs one of {', '.join(ACTIVATIONS)}")
    for linear in packed_linears(model).values():
        linear.activations = activations


def expand_weights(model: Any) -> None:
    """Decode every packed weight once and keep it beside the packed tensors: the same numbers, more memory, no decoding at each call.

    Worth it when a model answers many questions with the reference kernel; the packed tensors stay what they are.
    """
    from bivlm.formats import FORMATS

    for linear in packed_linears(model).values():
        linear._expanded = FORMATS[linear.format].decode(linear.packed).dequantize().to(linear.compute_dtype)
