"""One element of 8 bits a weight, with scales: FP8 (fine-grained, fbgemm, ModelOpt), and the formats
int-quantized and float-quantized of compressed-tensors.

    weight (out, in) float8 or int8; weight_scale or weight_scale_inv, weight_zero_point, input_scale, …

Source: transformers, integrations/finegrained_fp8.py; compressed-tensors 0.20, compressors/naive_quantized.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Module, Unpacked, by_layout

MORE = (
    *(".weight_zero_point", ".weight_g_idx", ".input_scale", ".input_zero_point", ".input_scale_ub"),
    *(".activation_scale", ".output_scale", ".k_scale", ".v_scale"),
)


def _is_float(module: Module) -> bool:
    return module.tensors[".weight"].dtype.startswith("F8_")


def _is_integer(module: Module) -> bool:
    return module.tensors[".weight"].dtype == "I8"


def _unpack(module: Module) -> Unpacked:
    return Unpacked(module.tensors[".weight"].numel, 8)


take = by_layout(
    Layout("FP", (".weight_scale", ".weight"), MORE, _is_float, _unpack),
    Layout("FP", (".weight_scale_inv", ".weight"), MORE, _is_float, _unpack),
    Layout("INT", (".weight_scale", ".weight"), MORE, _is_integer, _unpack),
)
