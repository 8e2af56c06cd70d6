"""Every kind on a linear of 96 rows and 64 columns in its exact layout, counted by hand: codes, scales and
all else that is stored for it.
"""

import json

import pytest

from bivlm.recount.run import recount
from stored_headers import nbytes, write_folder, write_safetensors

OUT, IN = 96, 64
LINEAR = "model.language_model.layers.0.mlp.up_proj"
NORM = "model.language_model.layers.0.input_layernorm.weight"

NF4 = {
    "weight": ("U8", (OUT * IN // 2, 1)),
    "weight.absmax": ("U8", (OUT * IN // 64,)),
    "weight.quant_map": ("F32", (16,)),
    "weight.nested_absmax": ("F32", (1,)),
    "weight.nested_quant_map": ("F32", (256,)),
    "weight.quant_state.bitsandbytes__nf4": ("U8", (82,)),
}
HQQ_SETTINGS = ["axis", "channel_wise", "compute_dtype", "group_size", "nbits", "offload_meta", "optimize"]
HQQ_SETTINGS += ["packing", "quant_scale", "quant_zero", "round_zero", "stores_quant_config"]
HQQ_SETTINGS += ["unpack_view_dtype", "view_as_float"]


def gptq(bits, group=32, word=32, order=True):
    """AutoGPTQ's buffers: the codes of a column lie along the inputs."""
    dtype = f"I{word}"
    return {
        "qweight": (dtype, (IN * bits // word, OUT)),
        "qzeros": (dtype, (IN // group, OUT * bits // word)),
        "scales": ("F16", (IN // group, OUT)),
        **({"g_idx": ("I32", (IN,))} if order else {}),
    }


def awq(bits, group=32):
    """AutoAWQ's GEMM: the codes of a row of inputs lie along the outputs."""
    return {
        "qweight": ("I32", (IN, OUT * bits // 32)),
        "qzeros": ("I32", (IN // group, OUT * bits // 32)),
        "scales": ("F16", (IN // group, OUT)),
    }


def packed(bits, group=32, zeros=False):
    """compressed-tensors' pack-quantized."""
    found = {
        "weight_packed": ("I32", (OUT, IN * bits // 32)),
        "weight_scale": ("BF16", (OUT, IN // group)),
        "weight_shape": ("I64", (2,)),
    }
    return {**found, "weight_zero_point": ("I32", (OUT * bits // 32, IN // group))} if zeros else found


def groups(bits, size=32, kind="int"):
    weights = {"num_bits": bits, "type": kind, "group_size": size, "strategy": "group"}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


def hqq(bits, group=32, axis=1, word="U8"):
    """HQQ's: groups are rows (axis 1) or columns (axis 0), and codes are packed along the first dim."""
    count, per_word = OUT * IN // group, (10 if word == "I32" else 8 // bits)
    rows, columns = (count, group) if axis == 1 else (group, count)
    scale = (count, 1) if axis == 1 else (1, count)
    codes = {"W_q": (word, (-(-rows // per_word), columns)), "scale": ("F16", scale), "zero": ("F16", scale)}
    return {**codes, "shape": ("I64", (2,)), **dict.fromkeys(HQQ_SETTINGS, ("U8", (4,)))}


def hqq_config(bits, group=32):
    weights = {"nbits": bits, "group_size": group, "axis": 1}
    return {"quant_method": "hqq", "quant_config": {"weight_quant_params": weights}}


CASES = {
    "gptq 2": (gptq(2), {"quant_method": "gptq", "bits": 2}, "GPTQ 2-bit"),
    "gptq 3": (gptq(3), {"quant_method": "gptq", "bits": 3}, "GPTQ 3-bit"),
    "gptq 4": (gptq(4), {"quant_method": "gptq", "bits": 4}, "GPTQ 4-bit"),
    "gptq 8": (gptq(8), None, "GPTQ 8-bit"),
    "gptq whole rows": (gptq(2, group=IN), None, "GPTQ 2-bit"),
    "gptq without zero points": (
        {name: gptq(2)[name] for name in ("qweight", "scales", "g_idx")},
        None,
        "GPTQ 2-bit",
    ),
    "gptq without both": (
        {name: gptq(2)[name] for name in ("qweight", "scales")},
        {"quant_method": "gptq", "bits": 2},
        "GPTQ 2-bit",
    ),
    "gptq in bytes": (gptq(4, word=8), {"quant_method": "gptq", "bits": 4}, "GPTQ 4-bit"),
    "autoround as gptq": (gptq(2, order=False), {"quant_method": "auto-round", "bits": 2}, "GPTQ 2-bit"),
    "autoround as awq": (awq(4), {"quant_method": "auto-round", "bits": 4}, "AWQ 4-bit"),
    "awq 4": (awq(4), {"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ 4-bit"),
    "awq gemv": (
        {
            "qweight": ("I32", (OUT, IN // 8)),
            "qzeros": ("I32", (OUT, 1)),
            "scales": ("F16", (OUT, 8)),
        },
        {"quant_method": "awq", "bits": 4, "version": "gemv"},
        "AWQ 4-bit",
    ),
    "pack-quantized 2": (packed(2), groups(2), "compressed-tensors 2-bit"),
    "pack-quantized 3": (packed(3), groups(3), "compressed-tensors 3-bit"),
    "pack-quantized 4, zero points": (packed(4, zeros=True), None, "compressed-tensors 4-bit"),
    "pack-quantized, rows": (packed(4, group=IN), groups(4, size=-1), "compressed-tensors 4-bit"),
    "nvfp4": (
        {
            "weight_packed": ("U8", (OUT, IN // 2)),
            "weight_scale": ("F8_E4M3", (OUT, IN // 16)),
            "weight_global_scale": ("F32", (1,)),
            "input_global_scale": ("F32", (1,)),
        },
        groups(4, 16, "float"),
        "NVFP 4-bit",
    ),
    "mxfp4": (
        {"weight_packed": ("U8", (OUT, IN // 2)), "weight_scale": ("U8", (OUT, IN // 32))},
        groups(4, 32, "float"),
        "MXFP 4-bit",
    ),
    "mxfp6": (
        {"weight_packed": ("U8", (OUT, IN * 3 // 4)), "weight_scale": ("U8", (OUT, IN // 32))},
        groups(6, 32, "float"),
        "MXFP 6-bit",
    ),
    "marlin-24": (  # half of the weights are kept; one bit a weight says which
        {
            "weight_packed": ("I32", (IN // 32, OUT * 16 * 4 // 32)),
            "scale_packed": ("F16", (IN // 32, OUT)),
            "meta": ("I16", (IN // 32, OUT * 2)),
            "weight_shape": ("I64", (2,)),
        },
        groups(4),
        "marlin-24 4-bit",
    ),
    "2:4 bitmask": (
        {
            "compressed": ("BF16", (OUT, IN // 2)),
            "bitmask": ("U8", (OUT, IN // 8)),
            "shape": ("I64", (2,)),
        },
        {"quant_method": "compressed-tensors"},
        "bitmask 16-bit",
    ),
    "nf4, double": (NF4, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes 4-bit"),
    "llm.int8": (
        {"weight": ("I8", (OUT, IN)), "SCB": ("F32", (OUT,)), "weight_format": ("U8", ())},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "bitsandbytes 8-bit",
    ),
    "hqq 2": (hqq(2), hqq_config(2), "HQQ 2-bit"),
    "hqq 1": (hqq(1), None, "HQQ 1-bit"),
    "hqq 3, ten in a word": (hqq(3, word="I32"), hqq_config(3), "HQQ 3-bit"),
    "hqq 4, axis 0": (hqq(4, axis=0), hqq_config(4), "HQQ 4-bit"),
    "exl3": (
        {
            "trellis": ("I16", (IN // 16, OUT // 16, 16 * 2)),
            "suh": ("F16", (IN,)),
            "svh": ("F16", (OUT,)),
            "mcg": ("I32", ()),
        },
        {"quant_method": "exl3", "bits": 2.0, "head_bits": 6},
        "EXL3 2-bit",
    ),
    "exl2": (
        {
            "q_weight": ("I32", (IN * 3 // 32, OUT)),
            "q_invperm": ("I32", (IN,)),
            "q_scale": ("I32", (2, OUT // 8)),
            "q_scale_max": ("F16", (2,)),
            "q_groups": ("I16", (4,)),
        },
        {"quant_method": "exl2", "bits": 3.0},
        "EXL2 3-bit",
    ),
    "aqlm": (
        {
            "codes": ("I16", (OUT, IN // 8, 1)),
            "codebooks": ("F16", (1, 65536, 1, 8)),
            "scales": ("F16", (OUT, 1, 1, 1)),
        },
        {"quant_method": "aqlm"},
        "AQLM 2-bit",
    ),
    "bitnet": (
        {"weight": ("U8", (OUT // 4, IN)), "weight_scale": ("BF16", (1,))},
        {"quant_method": "bitnet"},
        "BitNet 2-bit",
    ),
    "modelopt nvfp4": (
        {
            "weight": ("U8", (OUT, IN // 2)),
            "weight_scale": ("F8_E4M3", (OUT, IN // 16)),
            "weight_scale_2": ("F32", ()),
            "input_scale": ("F32", ()),
        },
        {"quant_method": "modelopt"},
        "NVFP 4-bit",
    ),
    "fp8": (
        {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale_inv": ("F32", (1, 1))},
        {"quant_method": "fp8"},
        "FP 8-bit",
    ),
    "w8a8": (
        {"weight": ("I8", (OUT, IN)), "weight_scale": ("BF16", (OUT, 1))},
        groups(8, -1),
        "INT 8-bit",
    ),
}


def one(found):
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_a_linear_in_its_exact_layout(case, tmp_path):
    layout, quantization, stored_as = CASES[case]
    tensors = {f"{LINEAR}.{ending}": entry for ending, entry in layout.items()}
    beside = {f"{LINEAR}.bias": ("BF16", (OUT,)), NORM: ("BF16", (IN,))}
    found = one(recount(write_folder(tmp_path / "model", {**tensors, **beside}, quantization)))
    row = one(found.rows)
    assert (row.name, row.packed, row.packed_weights) == ("language", 1, OUT * IN)
    assert row.packed_bytes == sum(nbytes(*entry) for entry in layout.values())
    assert row.weights == OUT * IN + OUT + IN
    assert row.nbytes == row.packed_bytes + 2 * (OUT + IN)
    assert next(kind for kind in row.stored_as if kind != "BF16") == stored_as
    assert found.remarks == ()


def test_mlx_takes_the_group_size_of_its_config(tmp_path):
    tensors = {
        "language_model.model.layers.0.mlp.up_proj": 2,
        "language_model.model.layers.0.mlp.gate_proj": 4,
    }
    stored = {}
    for (name, bits), group in zip(tensors.items(), (32, 16), strict=True):
        stored[f"{name}.weight"] = ("U32", (OUT, IN * bits // 32))
        stored |= {f"{name}.{ending}": ("BF16", (OUT, IN // group)) for ending in ("scales", "biases")}
    other = {"language_model.model.layers.0.mlp.gate_proj": {"group_size": 16, "bits": 4}}
    folder = write_folder(tmp_path, stored, quantization={"group_size": 32, "bits": 2, **other})
    row = one(one(recount(folder)).rows)
    assert (row.packed, row.packed_weights) == (2, 2 * OUT * IN)
    assert list(row.stored_as) == ["MLX 4-bit", "MLX 2-bit"]


def test_experts_in_one_tensor(tmp_path):
    experts = "model.layers.0.mlp.experts.down_proj"
    stored = {
        f"{experts}_blocks": ("U8", (4, OUT, IN // 32, 16)),
        f"{experts}_scales": ("U8", (4, OUT, IN // 32)),
    }
    stored[f"{experts}_bias"] = ("BF16", (4, OUT))
    row = one(one(recount(write_folder(tmp_path, stored, {"quant_method": "mxfp4"}))).rows)
    assert (row.packed_weights, row.weights) == (4 * OUT * IN, 4 * OUT * IN + 4 * OUT)
    assert row.packed_bytes == 4 * OUT * IN // 2 + 4 * OUT * IN // 32


TORCHAO = {  # header entries that torchao 0.18 wrote for a linear of 96 x 64 (flatten_tensor_state_dict)
    "int2 in bytes": (
        {
            "qdata": ("I8", (OUT, IN)),
            "scale": ("BF16", (OUT, 2)),
            "zero_point": ("I8", (OUT, 2)),
        },
        {
            "_type": "IntxUnpackedToInt8Tensor",
            "_data": {"target_dtype": {"_data": "int2"}, "block_size": [1, 32]},
        },
        "torchao 8-bit",
    ),
    "int8": (
        {"qdata": ("I8", (OUT, IN)), "scale": ("F32", (OUT, 1)), "zero_point": ("I8", (OUT, 1))},
        {"_type": "Int8Tensor", "_data": {"block_size": [1, 64]}},
        "torchao 8-bit",
    ),
    "int4": (
        {"qdata": ("I8", (OUT, IN // 2)), "scale": ("BF16", (2, OUT)), "zero_point": ("BF16", (2, OUT))},
        {"_type": "Int4Tensor", "_data": {"block_size": [1, 32], "shape": [OUT, IN]}},
        "torchao 4-bit",
    ),
    "mx": (
        {"qdata": ("U8", (OUT, IN // 2)), "scale": ("U8", (OUT, 2))},
        {"_type": "MXTensor", "_data": {"elem_dtype": {"_type": "torch.dtype", "_data": "float4_e2m1fn_x2"}}},
        "torchao 4-bit",
    ),
}


@pytest.mark.parametrize("case", TORCHAO)
def test_torchao_says_the_class_in_the_header(case, tmp_path):
    layout, said, stored_as = TORCHAO[case]
    tensors = {f"{LINEAR}._weight_{ending}": entry for ending, entry in layout.items()}
    tensors[f"{LINEAR}.bias"] = ("BF16", (OUT,))
    path = write_safetensors(tmp_path / "model.safetensors", tensors, {f"{LINEAR}.weight": json.dumps(said)})
    found = one(recount(path))
    row = one(found.rows)
    assert (row.packed_weights, row.weights) == (OUT * IN, OUT * IN + OUT)
    assert row.packed_bytes == sum(nbytes(*entry) for entry in layout.values())
    assert stored_as in row.stored_as
    assert found.remarks == ()


def test_an_unknown_class_of_torchao_has_its_bytes(tmp_path):
    tensors = {f"{LINEAR}._weight_qdata": ("U8", (OUT, IN))}
    said = {f"{LINEAR}.weight": json.dumps({"_type": "Int1Tensor", "_data": {}})}
    found = one(recount(write_safetensors(tmp_path / "model.safetensors", tensors, said)))
    assert (found.total.weights, found.total.nbytes) == (None, OUT * IN)
    assert "Int1Tensor" in found.remarks[0]


@pytest.mark.parametrize(
    ("layout", "quantization", "reason"),
    [
        ({**gptq(4), "g_idx": ("I32", (IN + 1,))}, None, "g_idx has"),
        ({**gptq(4), "qzeros": ("I32", (2, 7))}, None, "a zero point would have 2.33 bits"),
        ({**gptq(4), "qzeros": ("I32", (3, 12))}, None, "qzeros has 3 groups, scales 2"),
        ({name: gptq(2)[name] for name in ("qweight", "scales")}, None, "only a config can say"),
        (packed(4), None, "names no number of bits"),
        (packed(3, group=IN), groups(3, -1), "the width is in weight_shape"),
        (packed(2), groups(8), "words of 8-bit codes"),
        (hqq(4, axis=0), None, "need a config with nbits"),
        (hqq(4), hqq_config(2), "are no codes of 2 bits"),
        ({"trellis": ("I16", (4, 6))}, None, "three dims are expected"),
        ({"trellis": ("I16", (4, 6, 40))}, None, "a weight would have 2.5 bits"),
    ],
)
def test_what_does_not_fit_is_unknown_with_the_reason(layout, quantization, reason, tmp_path):
    tensors = {f"{LINEAR}.{ending}": entry for ending, entry in layout.items()}
    found = one(recount(write_folder(tmp_path, tensors, quantization)))
    assert found.total.nbytes == sum(nbytes(*entry) for entry in layout.values())
    assert (found.total.weights, found.total.bits, found.file_bits) == (None, None, None)
    assert reason in found.remarks[0]
    assert LINEAR in found.remarks[0]
