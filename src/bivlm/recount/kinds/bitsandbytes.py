"""bitsandbytes.

    4 bits  weight (in * out / 2, 1), often uint8; weight.absmax, weight.quant_map (16); with double
            quantization weight.nested_absmax, weight.nested_quant_map (256); and JSON in bytes,
            weight.quant_state.bitsandbytes__nf4 or __fp4
    8 bits  weight (out, in) int8, SCB (out) float32, weight_format

Source: bitsandbytes, functional.py: QuantState.as_dict; nn/modules.py: Linear4bit, Linear8bitLt.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Module, Unpacked, by_layout

STATE = tuple(f".weight.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))


def _any(module: Module) -> bool:
    return True


def _four(module: Module) -> Unpacked:
    return Unpacked(2 * module.tensors[".weight"].nbytes, 4)


def _is_eight(module: Module) -> bool:
    return module.tensors[".weight"].dtype == "I8"


def _eight(module: Module) -> Unpacked:
    return Unpacked(module.tensors[".weight"].numel, 8)


take = by_layout(
    Layout(
        "bitsandbytes",
        (".weight.absmax", ".weight"),
        (".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map", *STATE),
        _any,
        _four,
    ),
    Layout("bitsandbytes", (".SCB", ".weight"), (".weight_format",), _is_eight, _eight),
)
