"""MLX: weight (out, in * bits / 32) uint32, scales and biases (out, in / group).

The group size, and the modules that have another, are in config.json under "quantization".
Source: mlx, python/mlx/nn/layers/quantized.py: QuantizedLinear.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Module, Unpacked, by_layout, whole_bits

GROUP = 64  # mx.quantize's own


def _fits(module: Module) -> bool:
    return module.tensors[".weight"].dtype == "U32"


def _unpack(module: Module) -> Unpacked:
    weights = module.tensors[".scales"].numel * (module.settings.group_size or GROUP)
    return Unpacked(weights, whole_bits(8 * module.tensors[".weight"].nbytes / max(weights, 1), "a code"))


take = by_layout(Layout("MLX", (".scales", ".weight"), (".biases",), _fits, _unpack))
