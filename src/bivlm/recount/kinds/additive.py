"""AQLM: codes (out / o, in / i, codebooks), codebooks (codebooks, size, o, i), scales (out / o, 1, 1, 1).

A code of each codebook stands for o * i weights. Source: AQLM, inference_lib/src/aqlm/inference.py:
QuantizedLinear.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Misfit, Module, Unpacked, by_layout


def _fits(module: Module) -> bool:
    return len(module.shape(".codes")) == 3 and len(module.shape(".codebooks")) == 4


def _unpack(module: Module) -> Unpacked:
    outs, inputs, books = module.shape(".codes")
    count, _, height, width = module.shape(".codebooks")
    weights = outs * height * inputs * width
    if count != books or not weights:
        raise Misfit(f"codes have {books} codebooks, and there are {count}")
    return Unpacked(weights, 8 * module.tensors[".codes"].nbytes / weights)


take = by_layout(Layout("AQLM", (".codes", ".codebooks"), (".scales",), _fits, _unpack))
