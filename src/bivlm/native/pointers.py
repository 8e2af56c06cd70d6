"""The one way from a tensor to an address for the library, which trusts what it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats.encoding.checks import dtype_name


def pointer(name: str, tensor: Tensor, dtype: torch.dtype, count: int) -> int:
    """The address of a tensor's first element, for as long as the tensor lives.

    Raises ValueError, with the name, unless the tensor has `count` elements of `dtype` in the CPU's memory,
    one after the other.
    """
    if tensor.layout is not torch.strided or not tensor.is_cpu:
        raise ValueError(f"'{name}' is on {tensor.device}; the library reads the CPU's memory")
    if tensor.dtype != dtype or tensor.numel() != count:
        raise ValueError(
            f"'{name}' is {dtype_name(tensor.dtype)} {list(tensor.shape)}; needs {count} of"
            f" {dtype_name(dtype)}"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"'{name}' is not contiguous: its strides are {list(tensor.stride())}")
    return tensor.data_ptr()
