"""The kernel of `raw`, for every device: torch's own product with the stored numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.raw import RawWeight
from bivlm.kernels.base import check_width


class RawProduct:
    """The product with one weight, whose numbers are converted at every call with another dtype than theirs.
    ValueError for a weight that the format refuses.
    """

    kernel, why, added_bytes = "torch", "", 0

    def __init__(self, packed: PackedTensor) -> None:
        RawWeight.check_packed(packed)
        self.values = packed.tensors["values"]

    def __call__(self, x: Tensor, bias: Tensor | None, int8: bool = False) -> Tensor:
        check_width(x, self.values.shape[1])
        to_add = None if bias is None else bias.to(x.dtype)
        return torch.nn.functional.linear(x, self.values.to(x.dtype), to_add)
