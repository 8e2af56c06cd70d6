"""compressed-tensors (llm-compressor), in its packed formats.

    pack-quantized    weight_packed (out, in * bits / 32) int32, weight_scale (out, groups), weight_shape,
                      weight_zero_point (out * bits / 32, groups) int32, weight_g_idx
    nvfp4             weight_packed (out, in / 2) uint8, weight_scale (out, in / 16) float8,
                      weight_global_scale
    mxfp4, mxfp6      weight_packed uint8, weight_scale (out, in / 32) uint8
    marlin-24         weight_packed int32, scale_packed, meta int16: one weight a bit, for 2:4 sparsity
    bitmask           compressed values, bitmask (out, in / 8) uint8, row_offsets, shape

Source: compressed-tensors 0.20, compressors/{pack_quantized,nvfp4,mxfp4,mxfp6}; of the two sparse ones 0.9,
compressors/quantized_compressors/marlin_24.py, compressors/sparse_compressors. int-quantized and
float-quantized keep one element a weight: eight_bit.py.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Misfit, Module, Unpacked, by_layout, whole_bits

PACKED, SCALE = ".weight_packed", ".weight_scale"
MORE = (
    *(".weight_shape", ".weight_zero_point", ".weight_g_idx", ".weight_global_scale", ".input_scale"),
    *(".input_global_scale", ".input_zero_point", ".output_scale"),
)


def _is_integer(module: Module) -> bool:
    return module.tensors[PACKED].dtype == "I32"


def _integer(module: Module) -> Unpacked:
    """Codes lie densely (older versions: 32 // bits in a word), so a row's width follows from the groups, or
    from the bits where they divide a word.
    """
    *front, packed = module.shape(PACKED)
    groups = module.shape(SCALE)[-1]
    bits, group = module.settings.bits, module.settings.group_size
    if bits is None:
        bits = _bits_by_groups(module)
    bits = whole_bits(bits, "a code")
    room = 32 * packed // int(bits)
    told = group if groups > 1 else None
    columns = groups * told if told else room
    if told and 0 < columns - room < told:
        columns = room  # the last group is smaller
    words = {-(-columns * int(bits) // 32), -(-columns // (32 // int(bits)))}
    if 32 % bits and not told:
        raise Misfit(
            f"{bits:g} bits in rows of {packed} words: the width is in weight_shape, not in a header"
        )
    if packed not in words or groups > columns:
        raise Misfit(f"{groups} groups of {group} weights in {packed} words of {bits:g}-bit codes")
    rows = 1
    for size in front:
        rows *= size
    return Unpacked(rows * columns, bits)


def _bits_by_groups(module: Module) -> float:
    if ".weight_zero_point" not in module.tensors:
        raise Misfit("the config names no number of bits that holds for all")
    return 32 * module.shape(".weight_zero_point")[0] / module.shape(SCALE)[0]


def _is_nv(module: Module) -> bool:
    return module.tensors[PACKED].dtype == "U8" and module.tensors[SCALE].dtype == "F8_E4M3"


def _is_mx(module: Module) -> bool:
    return module.tensors[PACKED].dtype == "U8" and module.tensors[SCALE].dtype in ("U8", "F8_E8M0")


def _nv(module: Module) -> Unpacked:
    return _grouped(module, 16)


def _mx(module: Module) -> Unpacked:
    return _grouped(module, 32)


def _grouped(module: Module, group: int) -> Unpacked:
    weights = group * module.tensors[SCALE].numel
    return Unpacked(weights, whole_bits(8 * module.tensors[PACKED].nbytes / max(weights, 1), "a code"))


def _marlin(module: Module) -> Unpacked:
    """The positions of the two of four weights that stay take a bit a weight (vLLM, gptq_marlin_24.py)."""
    weights = 8 * module.tensors[".meta"].nbytes
    return Unpacked(weights, whole_bits(16 * module.tensors[PACKED].nbytes / max(weights, 1), "a code"))


def _bitmask(module: Module) -> Unpacked:
    weights = 8 * module.tensors[".bitmask"].nbytes
    return Unpacked(weights, module.word(".compressed"))


def _any(module: Module) -> bool:
    return True


take = by_layout(
    Layout("marlin-24", (PACKED, ".scale_packed", ".meta"), MORE, _any, _marlin),
    Layout("compressed-tensors", (PACKED, SCALE), MORE, _is_integer, _integer),
    Layout("NVFP", (PACKED, SCALE), MORE, _is_nv, _nv),
    Layout("MXFP", (PACKED, SCALE), MORE, _is_mx, _mx),
    Layout("bitmask", (".compressed", ".bitmask"), (".shape", ".row_offsets", SCALE, *MORE), _any, _bitmask),
)
