"""Helpers for the checks of all formats: errors that name the wrong tensor, and bit-exact equality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Layout = Mapping[
    str, tuple[torch.dtype, tuple[int | None, ...]]
]  # dtype and shape of every tensor in the file; `None` stands for any size

_SAME_SIZE = {torch.float16: torch.int16, torch.float32: torch.int32}


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Put the name of a format or of a tensor before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """ValueError unless `tensor` has the dtype and shape; `None` in a shape stands for any size."""
    fits = tensor.dim() == len(shape) and all(
        need in (None, size) for need, size in zip(shape, tensor.shape, strict=True)
    )
    needed = ", ".join("any" if size is None else str(size) for size in shape)
    require(
        fits and tensor.dtype == dtype,
        f"'{name}' is {dtype_name(tensor.dtype)} {list(tensor.shape)}; needs {dtype_name(dtype)} [{needed}]",
    )


def check_tensors(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """ValueError unless `tensors` are exactly those of the layout."""
    for name in layout:
        require(name in tensors, f"'{name}' is missing")
    for name, tensor in tensors.items():
        require(name in layout, f"'{name}' does not belong to this weight")
        check_tensor(name, tensor, *layout[name])


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def own_copy(tensor: Tensor) -> Tensor:
    """A copy with its own memory: safetensors refuses tensors that share memory."""
    return tensor.clone(memory_format=torch.contiguous_format)


def same_bits(one: Any, other: Any) -> bool:
    """Whether two field values are equal, tensors bit for bit (so -0.0 is not 0.0)."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    view = _SAME_SIZE.get(one.dtype, one.dtype)
    return torch.equal(one.view(view), other.view(view))
