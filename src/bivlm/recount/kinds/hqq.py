"""HQQ, as transformers saves it in safetensors (a .pt of HQQ's own is a pickle, and is not opened).

The weight is reshaped to groups before its codes are packed along the first dim: with axis 1, W_q has a
column for each weight of a group, and scale and zero (out * in / group, 1); with axis 0, W_q has a column for
each group, and scale and zero (1, out * in / group). All else of the module is its settings.

Source: hqq/core/quantize.py: Quantizer.quantize, HQQLinear.state_dict; hqq/core/bitpack.py.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Misfit, Module, Unpacked, by_layout


def _any(module: Module) -> bool:
    return True


def _unpack(module: Module) -> Unpacked:
    codes, scale = module.tensors[".W_q"], module.tensors[".scale"]
    said = module.settings.bits
    if len(codes.shape) == 2 and len(scale.shape) == 2 and scale.shape[1] == 1:
        weights = scale.numel * codes.shape[1]
    elif said and (module.settings.group_size or not 8 % said):
        group = module.settings.group_size
        weights = scale.numel * group if group else int(8 * codes.nbytes / said)
    else:
        raise Misfit(f"W_q of {list(codes.shape)} and scale of {list(scale.shape)} need a config with nbits")
    bits = 8 * codes.nbytes / max(weights, 1)
    if said and not said <= bits <= 1.35 * said + 0.01:  # three bits lie ten in a word, with whole words
        raise Misfit(f"{weights:,} weights in {codes.nbytes:,} bytes are no codes of {said:g} bits")
    return Unpacked(weights, said or bits)


take = by_layout(Layout("HQQ", (".W_q", ".scale"), (".*",), _any, _unpack))
