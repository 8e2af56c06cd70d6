"""What quantizers lose on single linears: quantized, packed, decoded again, and measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bivlm.formats import FORMATS
from bivlm.quantizers import Quantizer
from bivlm.types import LinearStats
from layers import Layer

KEPT = "kept in full precision by the recipe"


@dataclass(frozen=True)
class Packed:
    """A quantized weight after its way through the bytes: (out, in) float32, all stored bits, the paper's
    count per weight, seconds of quantizing.
    """

    weight: Tensor
    stored_bits: int
    paper_bits: float | None
    seconds: float


def pack(quantizer: Quantizer, weight: Tensor, stats: LinearStats | None) -> Packed:
    """Quantize, encode, decode and compare. Raises ValueError as the quantizer does; ends the run when
    decoding gives another weight.
    """
    start = time.perf_counter()
    quantized = quantizer.quantize(weight, stats if quantizer.needs_data else None)
    seconds = time.perf_counter() - start
    packed = quantized.encode()
    decoded = FORMATS[packed.format].decode(packed)
    if decoded != quantized:
        raise SystemExit(f"{quantizer}: what was decoded is not what was encoded")
    return Packed(decoded.dequantize(), 8 * packed.nbytes, quantizer.paper_bits(quantized), seconds)


def energy(difference: Tensor, hessian: Tensor) -> float:
    difference, hessian = difference.double(), hessian.double()
    return float(((difference @ hessian) * difference).sum())


def measure(quantizer: Quantizer, layer: Layer) -> dict[str, Any]:
    """Error, bits, the paper's count and seconds of one quantizer on one layer; `failed` with the reason
    where it refuses the layer.
    """
    try:
        packed = pack(quantizer, layer.weight, layer.stats)
    except ValueError as error:
        return {"failed": str(error)}
    w, hessian = layer.weight.float(), layer.stats.hessian
    error = energy(w - packed.weight, hessian) / energy(w, hessian)
    if not math.isfinite(error):
        return {"failed": "the packed weight holds NaN or infinity"}
    speed = packed.seconds / (w.numel() / 1e6)
    return {
        "error": error,
        "bits": packed.stored_bits / w.numel(),
        "paper_bits": packed.paper_bits,
        "seconds_per_million": speed,
    }


def weighted(found: Mapping[str, dict[str, Any]], layers: Mapping[str, Layer], what: str) -> float | None:
    """Mean over all weights; None where a layer has no number."""
    values = [(layer.get(what), layers[name].weight.numel()) for name, layer in found.items()]
    known = [(value, count) for value, count in values if value is not None]
    return (
        sum(value * count for value, count in known) / sum(count for _, count in known)
        if len(known) == len(values)
        else None
    )


def overall_error(found: Mapping[str, dict[str, Any]]) -> float | None:
    """Geometric mean of the layers' errors; None where a layer has none."""
    errors = [layer["error"] for layer in found.values() if "error" in layer]
    if len(errors) < len(found):
        return None
    return statistics.geometric_mean(errors) if min(errors) > 0 else 0.0


def error_cell(layer: Mapping[str, Any]) -> str:
    if "error" not in layer:
        return "kept" if layer["failed"] == KEPT else "failed"
    return f"{layer['error']:.4f}" if layer["error"] < 10 else f"{layer['error']:.1f}"
