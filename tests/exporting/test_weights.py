"""Reading a folder weight by weight gives what loading it gives."""

from __future__ import annotations

import pytest
import torch

import bivlm
from bivlm.checkpoint.shards import read_entries, read_tensors, write_shard
from bivlm.errors import InputError
from bivlm.exporting.weights import FolderWeights
from tiny import tiny_checkpoint, tiny_model


def assert_reads(weights, expected):
    assert set(weights.names) == set(expected)
    for name, tensor in expected.items():
        assert weights.shape(name) == tuple(tensor.shape)
        assert torch.equal(weights.read(name), tensor.float()), name


@pytest.mark.parametrize("kind", ["llava", "llava_siglip", "internvl"])
def test_a_model_in_full_precision(kind, tmp_path):
    model = tiny_model(kind, torch.bfloat16)
    expected = {
        name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys
    }
    weights = FolderWeights(tiny_checkpoint(kind, tmp_path / "model", torch.bfloat16))
    assert not weights.is_packed
    assert_reads(weights, expected)


@pytest.mark.parametrize(
    ("kind", "embeddings"),
    [
        ("llava_siglip", 4.0),
        pytest.param("llava", None, marks=pytest.mark.slow),
        pytest.param("qwen3_vl", None, marks=pytest.mark.slow),
    ],
)
def test_a_packed_model(kind, embeddings, tmp_path):
    source = tiny_checkpoint(kind, tmp_path / "model")
    out = tmp_path / "out"
    bivlm.quantize(source, out, recipe="rtn-2", settings={"group_size": 32}, embeddings=embeddings)
    weights = FolderWeights(out)
    model, _ = bivlm.load(out)
    model = model.dequantize()
    expected = {
        name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys
    }
    assert weights.is_packed
    assert_reads(weights, expected)
    name = next(name for name in weights.names if name.endswith("q_proj.weight"))
    assert weights.packed(name).format == "uniform"
    assert weights.packed("model.language_model.norm.weight") is None


def test_bytes_that_have_changed_are_refused(tmp_path):
    out = tmp_path / "out"
    bivlm.quantize(tiny_checkpoint("llava", tmp_path / "model"), out, recipe="rtn-2")
    shard = sorted(out.glob("*.safetensors"))[1]
    tensors = read_tensors(read_entries([shard]).values())
    key = next(key for key in tensors if key.endswith("codes"))
    tensors[key] = tensors[key] ^ 1
    write_shard(shard, tensors)
    with pytest.raises(InputError, match="copy or quantize it again"):
        FolderWeights(out)
