"""GPTQ, and AutoRound where it writes GPTQ's layout.

    qweight (in * bits / 32, out) int32     scales (groups, out)
    qzeros (groups, out * bits / 32) int32  g_idx (in) int32, which group a row has

Source: AutoGPTQ and GPTQModel, BaseQuantLinear.register_buffers (gptqmodel/nn_modules/qlinear). The words may
have 8, 16 or 64 bits there (pack_dtype).
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Misfit, Module, Unpacked, by_layout, whole_bits


def _fits(module: Module) -> bool:
    gemv = str(module.settings.quantization.get("version")).lower().startswith("gemv")  # AWQ's, if it says so
    return module.shape(".qweight")[-1:] == module.shape(".scales")[-1:] and not gemv


def _unpack(module: Module) -> Unpacked:
    rows, out = module.matrix(".qweight")
    word, bits = module.word(".qweight"), module.settings.bits
    if ".qzeros" in module.tensors:
        groups, packed = module.matrix(".qzeros")
        bits = whole_bits(module.word(".qzeros") * packed / out, "a zero point")
        if groups != module.matrix(".scales")[0]:
            raise Misfit(f"qzeros has {groups} groups, scales {module.matrix('.scales')[0]}")
    elif ".g_idx" in module.tensors:
        bits = whole_bits(rows * word / module.shape(".g_idx")[0], "a code")
    if bits is None:
        raise Misfit("without qzeros and g_idx, only a config can say how many bits a code has")
    inputs = rows * word / bits
    if ".g_idx" in module.tensors and module.shape(".g_idx") != (inputs,):
        raise Misfit(f"g_idx has {module.shape('.g_idx')}, and qweight of {bits:g} bits {inputs:g} rows")
    return Unpacked(int(inputs) * out, bits)


take = by_layout(Layout("GPTQ", (".qweight", ".scales"), (".qzeros", ".g_idx"), _fits, _unpack))
