"""The tensors of a layer's stored weights, as vLLM's loader hands them over."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bivlm.checkpoint.modules import ModuleSpec
from bivlm.errors import InputError
from bivlm.formats import format_named
from bivlm.formats.encoding.arrays import dtype_name
from bivlm.vllm_plugin.stored import Stored
from trellis_weights import trellis_weight

PACKED = [trellis_weight(rows, 64, (2, 3)).encode() for rows in (64, 32)]


def spec_of(packed):
    tensors = {
        name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in packed.tensors.items()
    }
    return ModuleSpec("k.", packed.format, packed.shape, packed.settings, tensors)


def two():
    return Stored([("a.q_proj", spec_of(PACKED[0])), ("a.k_proj", spec_of(PACKED[1]))], (0, 1))


def put_all(stored, shards):
    for shard, packed in zip(shards, PACKED, strict=True):
        for name, tensor in packed.tensors.items():
            stored.put(shard, name, tensor)


@pytest.mark.parametrize("shards", [("q", "k"), (0, 1), ((0,), (1,))])
def test_every_tensor_comes_to_its_weight(shards):
    stored = two()
    assert stored.names == {"codes": torch.uint8, "bits": torch.uint8, "row_scale": torch.float16}
    put_all(stored, shards)
    for found, packed in zip(stored.take(), PACKED, strict=True):
        kind = format_named(packed.format)
        assert kind.decode(found) == kind.decode(packed)


def test_several_outputs_may_be_one_weight():
    weights = [("a.in_proj_qkv", spec_of(PACKED[0])), ("a.in_proj_z", spec_of(PACKED[1]))]
    stored = Stored(weights, (0, 0, 0, 1))
    put_all(stored, ((0, 1, 2), 3))
    assert [weight.shape for weight in stored.take()] == [(64, 64), (32, 64)]


def test_one_weight_needs_no_output():
    stored = Stored([("a.fc", spec_of(PACKED[0]))], (0,))
    for name, tensor in PACKED[0].tensors.items():
        stored.put(None, name, tensor)
    assert len(stored.take()) == 1


def test_a_weight_in_full_precision_is_kept_as_it_is():
    stored = Stored([("a.q_proj", None), ("a.k_proj", spec_of(PACKED[1]))], (0, 1))
    assert stored.names["weight"] is None
    stored.put("q", "weight", torch.ones(4, 64))
    for name, tensor in PACKED[1].tensors.items():
        stored.put("k", name, tensor)
    assert torch.equal(stored.take()[0], torch.ones(4, 64))


@pytest.mark.parametrize("shard", [None, 2, "index_q", "gate"])
def test_an_output_that_is_not_known_is_refused(shard):
    with pytest.raises(InputError, match="which the plug-in does not know; this layer has 2 outputs"):
        two().put(shard, "codes", torch.zeros(1))


def test_a_missing_tensor_is_named():
    stored = two()
    put_all(stored, (0, 1))
    del stored.tensors[1]["row_scale"]
    with pytest.raises(InputError, match=r"the files lack a.k_proj.row_scale; the folder is incomplete"):
        stored.take()


def test_a_tensor_of_another_shape_is_named():
    stored = two()
    put_all(stored, (0, 1))
    stored.put(0, "row_scale", torch.ones(3, dtype=torch.float16))
    with pytest.raises(InputError, match=r"a.q_proj.row_scale is torch.float16 \[3\] in the files"):
        stored.take()


def test_a_damaged_weight_is_named():
    stored = two()
    put_all(stored, (0, 1))
    stored.put(0, "row_scale", torch.full((64,), torch.inf, dtype=torch.float16))
    with pytest.raises(InputError, match=r"the packed weight a.q_proj is damaged: trellis: 'row_scale'"):
        stored.take()


def test_settings_come_from_config_json():
    stored = Stored([("a.fc", replace(spec_of(PACKED[0]), settings={"window": 8}))], (0,))
    for name, tensor in PACKED[0].tensors.items():
        stored.put(None, name, tensor)
    with pytest.raises(InputError, match=r"the packed weight a.fc is damaged: trellis: the settings are"):
        stored.take()
