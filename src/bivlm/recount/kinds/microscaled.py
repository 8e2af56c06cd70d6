"""4-bit floats with a scale for each small group, of other tools than compressed-tensors.

    ModelOpt  weight (out, in / 2) uint8, weight_scale (out, in / 16) float8, weight_scale_2, input_scale
    gpt-oss   …_blocks (…, 16) uint8 and …_scales (…) uint8: 32 weights in a block

Source: NVIDIA ModelOpt, export of NVFP4; transformers, integrations/mxfp4.py.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Module, Unpacked, by_layout, whole_bits


def _is_modelopt(module: Module) -> bool:
    return module.tensors[".weight"].dtype == "U8"


def _modelopt(module: Module) -> Unpacked:
    weights = 16 * module.tensors[".weight_scale"].numel
    return Unpacked(weights, whole_bits(8 * module.tensors[".weight"].nbytes / max(weights, 1), "a code"))


def _is_blocks(module: Module) -> bool:
    return module.tensors["_blocks"].dtype == module.tensors["_scales"].dtype == "U8"


def _blocks(module: Module) -> Unpacked:
    weights = 32 * module.tensors["_scales"].numel
    return Unpacked(weights, whole_bits(8 * module.tensors["_blocks"].nbytes / max(weights, 1), "a code"))


take = by_layout(
    Layout(
        "NVFP", (".weight_scale_2", ".weight", ".weight_scale"), (".input_scale",), _is_modelopt, _modelopt
    ),
    Layout("MXFP", ("_blocks", "_scales"), (), _is_blocks, _blocks),
)
