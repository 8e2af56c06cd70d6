"""A packed linear whose rows can be scaled while a block or a whole model is tuned."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bivlm.formats import FORMATS, PackedTensor

ROW_SCALE = "row_scale"  # the tensor of a packed linear that is fitted, if its format has one
SHIFT = "shift"  # the name of its parameter during tuning
LARGEST_SCALE = 60000.0


class ScaledLinear(nn.Module):
    """y = (x Wᵀ) ⊙ (1 + shift) + bias, with W decoded from a packed weight, in `dtype`. Only `shift` (out,)
    float32 and the bias can be trained; the shift only if the format has row scales.
    """

    def __init__(self, packed: PackedTensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.packed = packed
        weight = FORMATS[packed.format].decode(packed).dequantize().to(dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone().float())
        self.shift = nn.Parameter(
            torch.zeros(len(weight), dtype=torch.float32, device="cpu"),
            requires_grad=self.has_row_scales,
        )

    @property
    def has_row_scales(self) -> bool:
        return ROW_SCALE in self.packed.tensors

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight) * (1 + self.shift).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def scaled_rows(scale: Tensor, shift: Tensor) -> Tensor:
    """Row scales (out,) float16 times 1 + shift, finite."""
    return (scale.float() * (1 + shift)).clamp(-LARGEST_SCALE, LARGEST_SCALE).half()


def rescaled(packed: PackedTensor, shift: Tensor) -> PackedTensor:
    """The packed weight with its rows scaled by 1 + shift (out,); unchanged if it has no row scales."""
    if ROW_SCALE not in packed.tensors:
        return packed
    scale = scaled_rows(packed.tensors[ROW_SCALE], shift)
    return replace(packed, tensors={**packed.tensors, ROW_SCALE: scale})


def rounded_shift(packed: PackedTensor, shift: Tensor) -> Tensor:
    """The shift (out,) that the rounded row scales stand for."""
    scale = packed.tensors[ROW_SCALE]
    return torch.where(scale != 0, scaled_rows(scale, shift).float() / scale.float() - 1, 0.0)
