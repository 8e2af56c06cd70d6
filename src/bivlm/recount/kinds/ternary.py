"""BitNet, as transformers packs it: weight (out / 4, in) uint8, four weights a byte; weight_scale (1).

Source: transformers, integrations/bitnet.py: pack_weights, BitLinear. An ordinary 8-bit weight has the same
names, so the config must say that it is BitNet's.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Module, Unpacked, by_layout


def _fits(module: Module) -> bool:
    return module.settings.method == "bitnet" and module.tensors[".weight"].dtype == "U8"


def _unpack(module: Module) -> Unpacked:
    return Unpacked(4 * module.tensors[".weight"].nbytes, 2)


take = by_layout(Layout("BitNet", (".weight_scale", ".weight"), (), _fits, _unpack))
