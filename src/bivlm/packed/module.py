"""`PackedModule`: a packed weight in a model, whatever the model uses it for (`linear.py`, `embedding.py`),
and the table of kernels.

Its buffers are the packed tensors under the names that they have in the checkpoint, so that loading is a
plain copy. It keeps its buffers' dtypes whatever `model.to(dtype)` says, and follows that dtype in what it
computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.errors import InputError
from bivlm.formats import FORMATS
from bivlm.formats.base import PackedTensor
from bivlm.kernels import reference
from bivlm.kernels.base import ACTIVATIONS, Activations, Product
from bivlm.kernels.table import kernel_for
from bivlm.packed.ops import LINEAR, ROWS, new_handle


class PackedModule(nn.Module):
    """A module whose weight (rows, columns) is a `PackedTensor`. `compute_dtype` is the dtype that the
    model's other weights have.

    `activations` "int8" allows the kernel to round the inputs of few tokens to eight bits
    (`set_activations`). The kernel prepares the weight at the first product, and again when a buffer was
    replaced; `product` has what it made.
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
        """What is this module's own and no copy's: its handle, and what a kernel prepared."""
        self._handle = new_handle(self)
        self._product: Product | None = None
        self._sources: tuple[int, ...] = ()
        self._device = ""

    @property
    def packed(self) -> PackedTensor:
        tensors = {name: getattr(self, name) for name in self.tensor_names}
        return PackedTensor(self.format, (self.rows, self.columns), tensors, self.settings)

    def project(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias: x (…, columns), the result (…, rows) in x's dtype."""
        if self._expanded is not None:
            return nn.functional.linear(
                x, self._expanded.to(x.dtype), None if bias is None else bias.to(x.dtype)
            )
        if x.requires_grad and torch.is_grad_enabled():
            return reference.linear(x, self.packed, bias)  # the one that torch can differentiate
        return LINEAR(x, bias, self._handle, self.rows, self.activations == "int8")

    def look_up(self, index: Tensor) -> Tensor:
        """The rows of W that `index` (…) int64 names, in the compute dtype: (…, columns)."""
        if self._expanded is not None:
            return nn.functional.embedding(index, self._expanded.to(self.compute_dtype))
        return ROWS(index, self._handle, self.columns, self.compute_dtype)

    def multiply(self, x: Tensor, bias: Tensor | None, int8: bool) -> Tensor:
        """What `bivlm::linear` does with this module."""
        return self.product("cpu" if x.is_cpu else x.device.type)(x, bias, int8)

    def unpack_rows(self, index: Tensor) -> Tensor:
        """What `bivlm::rows` does with this module: the rows as float32, each of them unpacked once.
        IndexError for one that is not there.
        """
        names, places = index.unique(return_inverse=True)
        if len(names) and not 0 <= int(names[0]) <= int(names[-1]) < self.rows:
            raise IndexError(
                f"the row {int(names[0]) if names[0] < 0 else int(names[-1])} is asked for; there are"
                f" {self.rows}"
            )
        return FORMATS[self.format].unpack_rows(self.packed, names)[places]

    def product(self, device: str = "cpu") -> Product:
        """The product that calls on a device run through. It holds its tensors, so a new tensor cannot pass
        for one of them.
        """
        sources = tuple(map(id, self._buffers.values()))
        if self._product is None or sources != self._sources or device != self._device:
            self._product, self._sources, self._device = (
                kernel_for(self.format, device)(self.packed),
                sources,
                device,
            )
        return self._product

    def dequantize(self) -> Tensor:
        """W (rows, columns) in the compute dtype."""
        return FORMATS[self.format].decode(self.packed).dequantize().to(self.compute_dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedModule:
        """Move with the model, but never round the packed tensors: a dtype change only becomes the new
        `compute_dtype`.
        """
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
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_handle", "_product", "_sources", "_device")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    @property
    def weight(self) -> Tensor:
        """A stand-in of the right shape, dtype and device that takes no memory: modelling code reads
        `proj.weight.dtype`.

        Its values mean nothing; `packed` has the weight. transformers' initialization skips tensors that
        carry `_is_hf_initialized`.
        """
        device = getattr(self, self.tensor_names[0]).device
        stand_in = torch.empty(1, dtype=self.compute_dtype, device=device).expand(self.rows, self.columns)
        stand_in._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
        return stand_in


def packed_modules(model: nn.Module) -> Mapping[str, PackedModule]:
    """Every packed weight of `model` by the name of its module, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedModule)}


def prepared_bytes(model: nn.Module) -> int:
    """Memory that the kernels hold in addition to the packed tensors of `model`: what they prepared so far,
    which is all of it once every weight was used.
    """
    return sum(
        module._product.added_bytes
        for module in packed_modules(model).values()
        if module._product is not None
    )


def set_activations(model: nn.Module, activations: Activations) -> None:
    """Let every packed weight of `model` meet its inputs as they are ("float"), or rounded to eight bits
    where that is faster ("int8").
    """
    if activations not in ACTIVATIONS:
        raise InputError(f"activations is {activations!r}; needs one of {', '.join(ACTIVATIONS)}")
    for module in packed_modules(model).values():
        module.activations = activations


def expand_weights(model: nn.Module) -> None:
    """Decode every packed weight once and keep it next to the packed tensors: the same numbers, more memory,
    no decoding at each call.

    Worth it when a model answers many questions with the reference kernel; the packed tensors stay what they
    are.
    """
    for module in packed_modules(model).values():
        module._expanded = module.dequantize()
