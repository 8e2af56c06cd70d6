"""Helpers for the checks of all formats, of tensors or numpy arrays: errors that name the wrong one, and
bit-exact equality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bivlm.errors import InputError, cut
from bivlm.formats.encoding.arrays import Array, dtype_name

if TYPE_CHECKING:
    from torch import Tensor

    from bivlm.formats.base import PackedTensor

Layout = Mapping[
    str, tuple[str, tuple[int | None, ...]]
]  # the name of the dtype and the shape of every tensor in the file; `None` stands for any size

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "int8": 1, "uint8": 1}  # of what is stored

MOST_WEIGHTS_PER_BYTE = 1024  # of a stored weight: bounds the memory of a weight by the size of its file


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


def known_settings(
    packed: PackedTensor, format_: str, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """The settings of a weight, whose values may still be anything; ValueError unless it is of this format
    and has a shape and exactly the settings `names`, and none besides them but those of `optional`.
    """
    require(isinstance(packed.format, str) and packed.format == format_, f"the format is {packed.format!r}")
    shape, settings = packed.shape, packed.settings
    require(
        isinstance(shape, tuple | list)
        and len(shape) == 2
        and all(type(size) is int and size >= 1 for size in shape),
        f"the shape is {shape}; needs (out, in), each at least 1",
    )
    require(isinstance(settings, Mapping), f"the settings are {settings!r}; needs an object")
    found = sorted(map(str, settings))
    require(
        set(names) <= set(settings) <= {*names, *optional},
        f"the settings are {found}; needs {sorted(names)}"
        + (f", and may have {sorted(optional)}" if optional else ""),
    )
    return dict(settings)


def check_integer(name: str, value: Any, least: int, most: int) -> None:
    require(type(value) is int and least <= value <= most, f"'{name}' is {value!r}; needs {least} … {most}")


def check_boolean(name: str, value: Any) -> None:
    require(type(value) is bool, f"'{name}' is {value!r}; needs true or false")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """ValueError unless `value` is one of `choices`, and of the same type (1 is not True)."""
    require(
        any(type(value) is type(choice) and value == choice for choice in choices),
        f"'{name}' is {value!r}; needs one of {', '.join(map(str, choices))}",
    )


def check_slice(what: str, start: Any, stop: Any, size: int, step: int) -> None:
    """InputError unless start … stop - 1 are some of `size` rows or columns, and each end is a multiple of
    `step`, or the last one.
    """
    known = type(start) is int and type(stop) is int and 0 <= start < stop <= size
    if not known:
        raise InputError(
            f"the {what} {cut(repr(start))} … {cut(repr(stop))} are asked for; there are {size} of them, and"
            f" a slice needs 0 <= start < stop <= {size}"
        )
    if start % step or (stop % step and stop != size):
        raise InputError(
            f"the {what} {start} … {stop} are asked for; this weight of {size} {what} can be cut only at"
            f" multiples of {step}"
            if step < size
            else f"the {what} {start} … {stop} are asked for; this weight of {size} {what} cannot be cut"
        )


def columns_slice(start: Any, stop: Any, columns: int, group_size: int) -> tuple[slice, int]:
    """The groups of the columns start … stop - 1, and the group size of a weight that has these alone.
    InputError unless they are whole groups; where all columns are one group, they may be any.
    """
    check_slice("columns", start, stop, columns, 1 if group_size == columns else group_size)
    return slice(start // group_size, -(-stop // group_size)), min(group_size, stop - start)


def least_bytes(shape: tuple[int, int]) -> int:
    """The fewest bytes in which a weight of this shape may be stored."""
    return -(-prod(shape) // MOST_WEIGHTS_PER_BYTE)


def check_density(shape: tuple[int, int], nbytes: int) -> None:
    """ValueError if a weight of so few bytes has so many numbers that no writer can mean it."""
    least = least_bytes(shape)
    require(
        nbytes >= least,
        f"the shape is {tuple(shape)} in {nbytes} bytes; a weight has at most {MOST_WEIGHTS_PER_BYTE} numbers"
        f" for each of its bytes, so this one needs {least} bytes",
    )


def check_tensor(name: str, tensor: Array, dtype: str, shape: tuple[int | None, ...]) -> None:
    """ValueError unless `tensor` has the dtype and shape; `None` in a shape stands for any size."""
    fits = tensor.ndim == len(shape) and all(
        need in (None, size) for need, size in zip(shape, tensor.shape, strict=True)
    )
    needed = ", ".join("any" if size is None else str(size) for size in shape)
    found = dtype_name(tensor.dtype)
    require(
        fits and found == dtype,
        f"'{name}' is {found} {list(tensor.shape)}; needs {dtype} [{needed}]",
    )


def check_tensors(tensors: Mapping[str, Array], layout: Layout) -> None:
    """ValueError unless `tensors` are exactly those of the layout, with their bytes in one memory."""
    for name in layout:
        require(name in tensors, f"'{name}' is missing")
    first = next(iter(layout))
    for name, tensor in tensors.items():
        require(name in layout, f"'{name}' does not belong to this weight")
        require(
            isinstance(tensor, np.ndarray) or str(getattr(tensor, "layout", "")) == "torch.strided",
            f"'{name}' is no tensor of bytes one after the other",
        )
        check_tensor(name, tensor, *layout[name])
        here, there = (str(getattr(one, "device", "cpu")) for one in (tensor, tensors[first]))
        require(here != "meta", f"'{name}' is on meta, where a tensor has no bytes")
        require(here == there, f"'{name}' is on {here}, and '{first}' on {there}")


def own_copy(tensor: Tensor) -> Tensor:
    """A copy with its own memory: safetensors refuses tensors that share memory."""
    import torch

    return tensor.clone(memory_format=torch.contiguous_format)


def same_bits(one: Any, other: Any) -> bool:
    """Whether two field values are equal, tensors bit for bit (so -0.0 is not 0.0)."""
    import torch
    from torch import Tensor

    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    numbers = {2: torch.int16, 4: torch.int32}  # of the same size
    view = numbers[one.element_size()] if one.is_floating_point() else one.dtype
    return torch.equal(one.view(view), other.view(view))
