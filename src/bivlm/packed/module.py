"""`PackedModule`: the base of all modules with a packed weight (`linear.py`, `embedding.py`).

Its buffers are the packed tensors with the same names as in the checkpoint, so loading is a plain copy.
`model.to(dtype)` does not change the dtypes of its buffers, only the dtype in which it computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.formats import format_named
from bivlm.formats.base import PackedTensor
from bivlm.kernels.base import ACTIVATIONS, Activations, LooksUp, Product
from bivlm.kernels.table import kernel_for
from bivlm.packed import gradient
from bivlm.packed.ops import LINEAR, ROWS, new_handle


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A product with what it was made from: `sources` are the ids of the buffers. They stay alive in `kept`,
    so a new tensor cannot be mistaken for one of them.
    """

    product: Product
    device: str
    sources: tuple[int, ...]
    kept: tuple[Tensor | None, ...]

    def serves(self, device: str, sources: tuple[int, ...]) -> bool:
        return self.device == device and self.sources == sources


class PackedModule(nn.Module):
    """A module whose weight (rows, columns) is a `PackedTensor`. `compute_dtype` is the dtype of the model's
    other weights.

    `activations` "int8" allows the kernel to round the inputs of few tokens to eight bits
    (`set_activations`). The kernel prepares the weight at the first product, and again after a buffer was
    replaced; `product` returns the prepared product. Several threads may call a module at the same time.
    """

    def __init__(self, packed: PackedTensor, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.format, self.settings = packed.format, dict(packed.settings)
        self.rows, self.columns = packed.shape
        self.compute_dtype = compute_dtype
        self.tensor_names = tuple(packed.tensors)
        for name, tensor in packed.tensors.items():
            self.register_buffer(name, tensor)
        self.activations: Activations = "float"
        self._expanded: Tensor | None = None
        self._begin()

    def _begin(self) -> None:
        """Set the state that a copy does not share: the handle, and the product that a kernel prepared."""
        self._handle = new_handle(self)
        self._prepared: _Prepared | None = None
        self._preparing = threading.RLock()

    def share(self, name: str, other: PackedModule) -> None:
        """Have the packed tensor `name` of another module, which keeps it in files and in the state of the
        model.
        """
        delattr(self, name)
        self.register_buffer(name, getattr(other, name), persistent=False)

    @property
    def packed(self) -> PackedTensor:
        tensors = {name: getattr(self, name) for name in self.tensor_names}
        return PackedTensor(self.format, (self.rows, self.columns), tensors, self.settings)

    @property
    def is_decoded(self) -> bool:
        """Whether the decoded weight is kept and used (`expand_weights`)."""
        return self._expanded is not None

    def project(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias: x (…, columns), the result (…, rows) in x's dtype."""
        if self._expanded is not None:
            return nn.functional.linear(
                x, self._expanded.to(x.dtype), None if bias is None else bias.to(x.dtype)
            )
        if x.requires_grad and torch.is_grad_enabled():
            return gradient.linear(x, self.packed, bias)
        return LINEAR(x, bias, self._handle, self.rows, self.activations == "int8")

    def look_up(self, index: Tensor) -> Tensor:
        """The rows of W that `index` (…) int64 names, in the compute dtype: (…, columns)."""
        if self._expanded is not None:
            return nn.functional.embedding(index, self._expanded.to(self.compute_dtype))
        return ROWS(index, self._handle, self.columns, self.compute_dtype)

    def multiply(self, x: Tensor, bias: Tensor | None, int8: bool) -> Tensor:
        """The implementation of `bivlm::linear` for this module."""
        return self.product("cpu" if x.is_cpu else x.device.type)(x, bias, int8)

    def unpack_rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The implementation of `bivlm::rows` for this module: the rows in a dtype, each of them unpacked
        once. IndexError for a row that does not exist.

        On a device whose kernel unpacks rows nothing waits for the device, and a row that does not exist is
        NaN.
        """
        if not index.is_cpu and isinstance(product := self.product(index.device.type), LooksUp):
            return product.look_up(index, dtype)
        names, places = index.unique(return_inverse=True)
        if len(names) and not 0 <= int(names[0]) <= int(names[-1]) < self.rows:
            raise IndexError(
                f"the row {int(names[0]) if names[0] < 0 else int(names[-1])} is asked for; there are"
                f" {self.rows}"
            )
        return format_named(self.format).unpack_rows(self.packed, names)[places].to(dtype)

    def product(self, device: str = "cpu") -> Product:
        """The product for calls on a device, of the buffers as they are now. Threads that come at the same
        time wait for one preparation.
        """
        prepared = self._prepared  # read once: another thread may publish a new one at any time
        if prepared is not None and prepared.serves(device, tuple(map(id, self._buffers.values()))):
            return prepared.product
        with self._preparing:
            prepared, buffers = self._prepared, self._buffers.copy()
            sources = tuple(map(id, buffers.values()))
            if prepared is None or not prepared.serves(device, sources):
                tensors: dict[str, Any] = {name: buffers[name] for name in self.tensor_names}
                packed = PackedTensor(self.format, (self.rows, self.columns), tensors, self.settings)
                product = kernel_for(self.format, device)(packed)
                prepared = _Prepared(product, device, sources, tuple(buffers.values()))
                self._prepared = prepared
        return prepared.product

    def dequantize(self) -> Tensor:
        """W (rows, columns) in the compute dtype."""
        return format_named(self.format).decode(self.packed).dequantize().to(self.compute_dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedModule:
        """Move with the model, but never round the packed tensors: a dtype change only sets the new
        `compute_dtype`.
        """
        before = {name: getattr(self, name) for name in self.tensor_names}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved = getattr(self, name)
            if moved.dtype != tensor.dtype:
                setattr(self, name, tensor.to(moved.device))
        self.compute_dtype = fn(torch.empty(0, dtype=self.compute_dtype, device="cpu")).dtype
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._preparing:
            super()._load_from_state_dict(*args, **kwargs)
            self._prepared = None  # the buffers are the same, but their contents may differ

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_handle", "_prepared", "_preparing")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    @property
    def weight(self) -> Tensor:
        """A stand-in of the right shape, dtype and device that takes no memory: modelling code reads
        `proj.weight.dtype`.

        Its values are NaN, so that what computes with it by mistake is seen; `packed` has the weight.
        transformers' initialization skips tensors that
        carry `_is_hf_initialized`.
        """
        device = getattr(self, self.tensor_names[0]).device
        one = torch.full((1,), torch.nan, dtype=self.compute_dtype, device=device)
        stand_in = one.expand(self.rows, self.columns)
        stand_in._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
        return stand_in


def check_shape(name: str, packed: PackedTensor, weight: Tensor) -> None:
    """InputError, naming the module, unless a packed weight has the shape of the one that it replaces."""
    if tuple(packed.shape) != tuple(weight.shape):
        raise InputError(
            f"the packed weight of {name} is {tuple(packed.shape)}, and the model's is {tuple(weight.shape)};"
            " give the folder that was packed from this model"
        )


def packed_modules(model: nn.Module) -> Mapping[str, PackedModule]:
    """Every packed weight of `model` by the name of its module, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedModule)}


def prepared_bytes(model: nn.Module) -> int:
    """Memory that the kernels hold in addition to the packed tensors of `model`. It counts the weights that
    were used so far.
    """
    return sum(
        module._prepared.product.added_bytes
        for module in packed_modules(model).values()
        if module._prepared is not None
    )


def set_activations(model: nn.Module, activations: Activations) -> None:
    """Let every packed weight of `model` use its inputs unchanged ("float"), or rounded to eight bits if that
    is faster ("int8").
    """
    if activations not in ACTIVATIONS:
        raise InputError(f"activations is {activations!r}; needs one of {', '.join(ACTIVATIONS)}")
    for module in packed_modules(model).values():
        module.activations = activations


def expand_weights(model: nn.Module) -> None:
    """Decode every packed weight once and keep it next to the packed tensors: the same numbers, more memory,
    no decoding at each call.

    This is useful if a model answers many questions with the reference kernel. The packed tensors do not
    change.
    """
    for module in packed_modules(model).values():
        module._expanded = module.dequantize()
