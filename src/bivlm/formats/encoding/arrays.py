"""What the rules of the formats ask of the tensors of a packed weight: torch's on any device, or numpy's
arrays, so that a folder is checked without torch. What both have (`shape`, comparisons, `max`, slices) is
used as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any  # a torch tensor or a numpy array


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of torch or numpy: "uint8"."""
    return str(dtype).removeprefix("torch.")


def is_float(array: Array) -> bool:
    return "float" in dtype_name(array.dtype)


def count(array: Array) -> int:
    """The number of elements."""
    return math.prod(array.shape)


def is_finite(array: Array) -> bool:
    """Whether a floating-point array holds neither NaN nor infinity."""
    return bool((abs(array) < math.inf).all())


def own_float16(array: Array) -> Array:
    """Bytes (…, 2) as float16 (…, 1), with memory of their own."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array).view(np.float16)
    import torch

    return array.clone(memory_format=torch.contiguous_format).view(torch.float16)


def any_bit(array: Array) -> bool:
    """Whether any bit of float16 numbers is set: also that of -0.0."""
    if isinstance(array, np.ndarray):
        return bool(array.view(np.int16).any())
    import torch

    return bool(array.view(torch.int16).any())


def is_ascending(array: Array) -> bool:
    """Whether no number is smaller than the one before it along the last dimension."""
    return bool((array[..., 1:] >= array[..., :-1]).all())


def as_float32(array: Array) -> Array:
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.float()


def as_int64(array: Array) -> Array:
    return array.astype(np.int64) if isinstance(array, np.ndarray) else array.long()


def table_like(array: Array, numbers: Sequence[int]) -> Array:
    """Numbers (n,) int64 where `array` is."""
    if isinstance(array, np.ndarray):
        return np.asarray(numbers, dtype=np.int64)
    return array.new_tensor(numbers).long()


def largest(array: Array) -> np.float32:
    """The largest magnitude of an array, float32; NaN if there is one."""
    return np.float32(float(abs(as_float32(array)).max()))


def product_is_finite(*factors: Any) -> bool:
    """Whether a product of float32 numbers, from left to right, is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.prod([np.float32(float(factor)) for factor in factors], dtype=np.float32)))
