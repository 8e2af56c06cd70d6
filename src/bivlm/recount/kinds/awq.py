"""AWQ, and AutoRound where it writes AWQ's layout.

    GEMM  qweight (in, out * bits / 32) int32   qzeros (groups, out * bits / 32)   scales (groups, out)
    GEMV  qweight (out, in * bits / 32) int32   qzeros, scales (out, …) with padded groups

Source: AutoAWQ, WQLinear_GEMM and WQLinear_GEMV (awq/modules/linear).
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Misfit, Module, Unpacked, by_layout, whole_bits

NEEDS = (".qweight", ".qzeros", ".scales")


def _is_gemm(module: Module) -> bool:
    return len(module.shape(".scales")) == 2 and module.shape(".qweight")[-1:] == module.shape(".qzeros")[-1:]


def _gemm(module: Module) -> Unpacked:
    inputs, packed = module.matrix(".qweight")
    groups, out = module.matrix(".scales")
    bits = whole_bits(module.word(".qweight") * packed / out, "a code")
    if module.matrix(".qzeros")[0] != groups or inputs % groups:
        raise Misfit(f"{inputs} inputs, {groups} groups of scales, qzeros of {module.shape('.qzeros')}")
    return Unpacked(inputs * out, bits)


def _is_gemv(module: Module) -> bool:
    return module.shape(".qweight")[:1] == module.shape(".scales")[:1] == module.shape(".qzeros")[:1]


def _gemv(module: Module) -> Unpacked:
    out, packed = module.matrix(".qweight")
    if module.settings.bits is None:
        raise Misfit("AWQ's GEMV layout needs a config that says how many bits a code has")
    bits = whole_bits(module.settings.bits, "a code")
    return Unpacked(int(out * packed * module.word(".qweight") / bits), bits)


take = by_layout(
    Layout("AWQ", NEEDS, (), _is_gemm, _gemm),
    Layout("AWQ", NEEDS, (), _is_gemv, _gemv),
)
