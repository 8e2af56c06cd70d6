"""Linears that the formats' own packages have packed: their tensors, counted from the file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bivlm.recount.run import recount

OUT, IN, GROUP = 96, 128, 32
NAME = "model.layers.0.mlp.up_proj"
pytestmark = pytest.mark.slow  # importing the packages takes longer than all other tests here


def check(folder, tensors, metadata=None, config=None, bits=None):
    """One packed linear with all its weights, and all bytes of its tensors."""
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    (folder / "config.json").write_text(json.dumps({"quantization_config": config or {}}))
    (found,) = recount(folder)
    stored = {key: tensor for key, tensor in tensors.items() if not key.endswith(".bias")}
    assert (found.total.packed, found.total.packed_weights) == (1, OUT * IN)
    assert found.total.packed_bytes == sum(tensor.nbytes for tensor in stored.values())
    assert found.total.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert found.remarks == ()
    assert any(f"{bits}-bit" in kind for kind in found.total.stored_as)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_pack_quantized(bits, symmetric, tmp_path):
    packages = pytest.importorskip("compressed_tensors.compressors", reason="an extra of the developers")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    arguments = quantization.QuantizationArgs(
        num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=GROUP
    )
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    state = {
        "weight": torch.randn(OUT, IN),
        "weight_scale": torch.full((OUT, IN // GROUP), 0.5),
        **({} if symmetric else {"weight_zero_point": torch.zeros(OUT, IN // GROUP, dtype=torch.int8)}),
    }
    made = packages.PackedQuantizationCompressor.compress(state, scheme)
    config = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
    }
    check(tmp_path, {f"{NAME}.{key}": tensor for key, tensor in made.items()}, config=config, bits=bits)


@pytest.mark.parametrize("group", [16, 32])
def test_float4(group, tmp_path):
    packages = pytest.importorskip("compressed_tensors.compressors", reason="an extra of the developers")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    strategy = "tensor_group" if group == 16 else "group"
    arguments = quantization.QuantizationArgs(
        num_bits=4,
        type="float",
        strategy=strategy,
        group_size=group,
        **({"scale_dtype": torch.float8_e4m3fn} if group == 16 else {"scale_dtype": torch.uint8}),
    )
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    state = {"weight": torch.randn(OUT, IN), "weight_scale": torch.ones(OUT, IN // group)}
    if group == 16:
        state["weight_global_scale"] = torch.ones(1)
    compressor = packages.NVFP4PackedCompressor if group == 16 else packages.MXFP4PackedCompressor
    made = compressor.compress(state, scheme)
    check(tmp_path, {f"{NAME}.{key}": tensor for key, tensor in made.items()}, bits=4)


@pytest.mark.filterwarnings("ignore")  # of torchao, about parts of itself that are not built here
@pytest.mark.parametrize("name", ["int2", "int4", "int8"])
def test_torchao(name, tmp_path):
    torchao = pytest.importorskip("torchao.quantization", reason="large, and of use for this alone")
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization.granularity import PerGroup

    kind = torchao.IntxWeightOnlyConfig(weight_dtype=getattr(torch, name), granularity=PerGroup(GROUP))
    linear = torch.nn.Linear(IN, OUT).to(torch.bfloat16)
    torchao.quantize_(linear, torchao.Int8WeightOnlyConfig() if name == "int8" else kind)
    tensors, metadata = flatten_tensor_state_dict({f"{NAME}.{k}": v for k, v in linear.state_dict().items()})
    check(tmp_path, tensors, metadata, bits=8)  # int2 too lies in bytes
