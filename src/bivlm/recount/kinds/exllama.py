"""EXL3 and EXL2.

    EXL3  trellis (in / 16, out / 16, 16 * bits) int16: tiles of 256 weights; suh (in), svh (out), or signs
          in bits (su, sv); mcg, mul1: which codebook
    EXL2  q_weight (words, out) int32, q_invperm (in), q_scale, q_scale_max, q_groups

Source: exllamav3/modules/quant/exl3.py: LinearEXL3; exllamav2/linear.py, exllamav2/ext.py: make_q_matrix.
"""

from __future__ import annotations

from bivlm.recount.kinds.base import Layout, Misfit, Module, Unpacked, by_layout, whole_bits

TILE = 16


def _any(module: Module) -> bool:
    return True


def _trellis(module: Module) -> Unpacked:
    shape = module.shape(".trellis")
    if len(shape) != 3:
        raise Misfit(f"trellis has the shape {list(shape)}, and three dims are expected")
    weights = shape[0] * TILE * shape[1] * TILE
    return Unpacked(weights, whole_bits(8 * module.tensors[".trellis"].nbytes / weights, "a weight"))


def _mixed(module: Module) -> Unpacked:
    """Bits differ from group to group; the mean is that of the codes alone."""
    weights = module.shape(".q_invperm")[0] * module.matrix(".q_weight")[1]
    return Unpacked(weights, 8 * module.tensors[".q_weight"].nbytes / max(weights, 1))


take = by_layout(
    Layout("EXL3", (".trellis",), (".suh", ".svh", ".su", ".sv", ".mcg", ".mul1", ".scale"), _any, _trellis),
    Layout(
        "EXL2",
        (".q_weight", ".q_invperm"),
        (".q_perm", ".q_scale", ".q_scale_max", ".q_groups", ".q_group_map"),
        _any,
        _mixed,
    ),
)
