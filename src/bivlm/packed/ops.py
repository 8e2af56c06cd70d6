"""The operators that every packed module calls: torch's compiler, dispatch modes and profilers see one
function of the input.

    bivlm::linear(Tensor x, Tensor? bias, Tensor handle, int out_features, bool int8) -> Tensor
    bivlm::rows(Tensor index, Tensor handle, int columns, ScalarType dtype) -> Tensor

`handle` identifies the module that has the weight. It is a number, because a graph cannot hold pointers and
prepared structures. The number is in a tensor, so one compiled graph serves all layers of a kind. It is drawn
at random, so a graph never reaches another module's weight, not even a graph that was saved and loaded in
another process.
"""

from __future__ import annotations

from secrets import randbits
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor


class HoldsWeight(Protocol):
    """The object that a handle identifies."""

    def multiply(self, x: Tensor, bias: Tensor | None, int8: bool) -> Tensor:
        """y = x Wᵀ + bias."""
        ...

    def unpack_rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of W that `index` (…) names: (…, columns) of a dtype."""
        ...


_MODULES: WeakValueDictionary[int, HoldsWeight] = WeakValueDictionary()
HANDLE_BITS = 62  # fits int64; two random handles are practically never equal


def new_handle(module: HoldsWeight) -> Tensor:
    """A new handle for a module, () int64. It does not keep the module alive."""
    handle = randbits(HANDLE_BITS)
    _MODULES[handle] = module
    return torch.tensor(handle, dtype=torch.int64, device="cpu")


def _module(handle: Tensor) -> HoldsWeight:
    module = _MODULES.get(int(handle))
    if module is None:
        raise RuntimeError(
            "this graph was compiled for a packed weight that is not in this process; compile the model again"
        )
    return module


def _multiply(x: Tensor, bias: Tensor | None, handle: Tensor, out_features: int, int8: bool) -> Tensor:
    return _module(handle).multiply(x, bias, int8)


def _unpack_rows(index: Tensor, handle: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    return _module(handle).unpack_rows(index, dtype)


def _linear_shape_only(
    x: Tensor, bias: Tensor | None, handle: Tensor, out_features: int, int8: bool
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def _rows_shape_only(index: Tensor, handle: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    return index.new_empty((*index.shape, columns), dtype=dtype)


_LIBRARY = torch.library.Library("bivlm", "DEF")
_LIBRARY.define("linear(Tensor x, Tensor? bias, Tensor handle, int out_features, bool int8) -> Tensor")
_LIBRARY.impl("linear", _multiply, "CompositeExplicitAutograd")
torch.library.register_fake("bivlm::linear", _linear_shape_only, lib=_LIBRARY)
_LIBRARY.define("rows(Tensor index, Tensor handle, int columns, ScalarType dtype) -> Tensor")
_LIBRARY.impl("rows", _unpack_rows, "CompositeExplicitAutograd")
torch.library.register_fake("bivlm::rows", _rows_shape_only, lib=_LIBRARY)

LINEAR = torch.ops.bivlm.linear.default
ROWS = torch.ops.bivlm.rows.default
