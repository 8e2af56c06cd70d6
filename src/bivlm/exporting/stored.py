"""The types in which a GGUF file holds a tensor: the full ones and Q8_0 for any weight, and two that hold
packed codes exactly.

    Q1_0    groups of 128 columns, a float16 scale and a sign for each weight      w = ±d
    TQ2_0   groups of 256 columns, a float16 scale and two bits for each weight    w ∈ {-d, 0, d}

ggml's own tables: ggml-common.h (block_q1_0, block_tq2_0). A packed weight is stored in one of these if every
one of its values is such a product, bit for bit; no other type of few bits is offered, because it would
quantize the packed weight a second time (benchmarks/bench_export.py measures what that costs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bivlm.errors import InputError, cut
from bivlm.formats import PackedTensor, format_named

if TYPE_CHECKING:
    import numpy as np

CHOICES = ("F16", "BF16", "F32", "Q8_0")
FULL = "F32"  # of vectors, and of what llama.cpp reads in nothing else
LARGEST_F16 = 65504.0
EXACT = {"Q1_0": 128, "TQ2_0": 256}  # columns of a group
GROUPS = {"Q8_0": 32, **EXACT}


def check_choice(kind: str, packed: bool) -> None:
    """InputError, saying what a smaller type would cost, for a type that is not offered."""
    if kind in CHOICES:
        return
    offered = f"{', '.join(CHOICES[:-1])} or {CHOICES[-1]}"
    if kind in EXACT:
        raise InputError(
            f"the type {kind} is taken by itself wherever it holds the packed codes exactly; choose {offered}"
            " for the other weights"
        )
    if packed:
        raise InputError(
            f"the type {cut(kind)} would quantize the packed weights a second time: the error of two-bit"
            " weights grows from 0.076 to 0.080 in Q4_K and doubles to 0.157 in Q2_K"
            f" (docs/results/export.md); choose {offered}, and llama-quantize on the F16 file where that is"
            " worth it"
        )
    raise InputError(
        f"the type is {cut(kind)}; choose {offered} (for smaller types run llama.cpp's llama-quantize on the"
        " F16 file, or pack the model)"
    )


def exact_type(packed: PackedTensor) -> str | None:
    """The type that holds a packed weight exactly, or None. The first row is looked at before all of them."""
    weight_class = format_named(packed.format)
    candidates = [kind for kind, group in EXACT.items() if packed.shape[1] % group == 0]
    first = weight_class.unpack_rows(packed, torch.zeros(1, dtype=torch.int64)) if candidates else None
    candidates = [kind for kind in candidates if first is not None and _scales(first, kind) is not None]
    if not candidates:
        return None
    weight = weight_class.decode(packed).dequantize()
    return next((kind for kind in candidates if _scales(weight, kind) is not None), None)


def type_that_fits(kind: str, columns: int) -> str:
    """`kind`, or F16 where the columns do not make whole groups of it."""
    return kind if columns % GROUPS.get(kind, 1) == 0 else "F16"


def encode(weight: Tensor, kind: str) -> np.ndarray:
    """A weight (…, in) float32 in a type: as float16 or float32, or for the others as bytes (…, bytes of a
    row). ValueError for values that the type cannot hold.
    """
    if kind in EXACT:
        scales = _scales(weight, kind)
        if scales is None:
            raise ValueError(f"not all values are those of {kind}")
        return _ENCODERS[kind](weight, scales).numpy()
    if kind == "F16":
        largest = float(weight.abs().max()) if weight.numel() else 0.0
        if largest > LARGEST_F16:
            raise ValueError(f"it holds {largest:.4g}, and F16 ends at 65504")
        return weight.half().numpy()
    if kind == "F32":
        return weight.contiguous().numpy()
    from gguf import GGMLQuantizationType, quantize

    return quantize(weight.contiguous().numpy(), GGMLQuantizationType[kind])


def _scales(weight: Tensor, kind: str) -> Tensor | None:
    """The scale of every group (rows, groups) float16, if all values are products of it."""
    grouped = weight.view(len(weight), -1, EXACT[kind])
    magnitudes = grouped.abs()
    scales = magnitudes.amax(-1)
    allowed = magnitudes == scales[..., None]
    if kind == "TQ2_0":
        allowed = allowed | (grouped == 0)
    half = scales.half()
    return half if bool(allowed.all()) and bool((half.float() == scales).all()) else None


def _encode_q1_0(weight: Tensor, scales: Tensor) -> Tensor:
    """Scale first, then the signs: bit j % 8 of byte j // 8 is set where weight j is positive."""
    rows, groups = scales.shape
    positive = (weight.view(rows, groups, 16, 8) > 0).to(torch.uint8)
    signs = _joined(positive, (0, 1, 2, 3, 4, 5, 6, 7))
    return torch.cat((scales[..., None].view(torch.uint8), signs), -1).view(rows, -1)


def _encode_tq2_0(weight: Tensor, scales: Tensor) -> Tensor:
    """Codes 0, 1, 2 for -d, 0, d first, then the scale: of each half group of 128, byte k holds the codes of
    the weights k, k + 32, k + 64 and k + 96.
    """
    rows, groups = scales.shape
    codes = (weight.sign() + 1).to(torch.uint8).view(rows, groups, 2, 4, 32)
    packed = _joined(codes.transpose(-1, -2), (0, 2, 4, 6)).reshape(rows, groups, 64)
    return torch.cat((packed, scales[..., None].view(torch.uint8)), -1).view(rows, -1)


def _joined(fields: Tensor, places: tuple[int, ...]) -> Tensor:
    """Small numbers (…, n) uint8 as bytes (…): number i begins at bit `places[i]`."""
    shifts = torch.tensor(places, dtype=torch.uint8, device="cpu")
    return (fields << shifts).sum(-1, dtype=torch.uint8)


_ENCODERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"Q1_0": _encode_q1_0, "TQ2_0": _encode_tq2_0}
