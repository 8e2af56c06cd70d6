"""The factors of an adapter in the precision in which they are stored.

    32, 16   float32, float16
    8        int8 codes with a float16 scale for each of the r components, in A and in B:
             A[i, :] = scale[i] · codes[i, :],    B[:, i] = scale[i] · codes[i, :]    codes in -127 … 127

A component is one row of A and one column of B, so a scale belongs to one of the r directions and its cost
does not depend on the shape of B. B is stored transposed, (r, out).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bivlm.adapters.lora import Factors
from bivlm.errors import InputError

WIDTHS = (8, 16, 32)
LARGEST_CODE = 127
FLOATS = {16: torch.float16, 32: torch.float32}


def check_width(bits: int) -> None:
    """InputError unless factors can be stored in so many bits."""
    if bits not in WIDTHS:
        raise InputError(f"bits is {bits}; the factors of an adapter take {', '.join(map(str, WIDTHS))}")


def component_bits(shape: tuple[int, int], bits: int) -> int:
    """The stored bits of one component of an adapter for a linear (out, in), scales included."""
    return bits * sum(shape) + (2 * 16 if bits == 8 else 0)


def stored_tensors(factors: Factors, bits: int) -> dict[str, Tensor]:
    """The tensors that stand for an adapter's factors in `bits` bits, by the ends of their names."""
    if bits != 8:
        dtype = FLOATS[bits]
        return {"lora_A.weight": factors.a.to(dtype), "lora_B.weight": factors.b.to(dtype)}
    tensors = {}
    for letter, rows in (("A", factors.a), ("B", factors.b.T)):
        scales = (rows.abs().amax(1) / LARGEST_CODE).half()
        wide = scales.float()[:, None]
        codes = torch.where(wide > 0, rows / wide, 0.0).round().clamp(-LARGEST_CODE, LARGEST_CODE)
        tensors |= {f"lora_{letter}.codes": codes.to(torch.int8), f"lora_{letter}.scales": scales}
    return tensors


def factors_from(tensors: Mapping[str, Tensor], scale: float) -> Factors:
    """The factors that `stored_tensors` wrote, as float32."""
    if "lora_A.weight" in tensors:
        return Factors(tensors["lora_A.weight"].float(), tensors["lora_B.weight"].float(), scale)
    a, b = (
        tensors[f"lora_{letter}.codes"].float() * tensors[f"lora_{letter}.scales"].float()[:, None]
        for letter in "AB"
    )
    return Factors(a, b.T.contiguous(), scale)


def rounded(factors: Factors, bits: int) -> Factors:
    """The factors as they will be read back."""
    return factors_from(stored_tensors(factors, bits), factors.scale)
