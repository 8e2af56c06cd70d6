"""Checkpoints that transformers converts while loading: every parameter is the one that `from_pretrained`
makes, one block is read without the others, and what cannot be read is named.
"""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

from bivlm import families
from bivlm.checkpoint import conversion, source, stacks
from bivlm.checkpoint.conversion import ConvertedEntry
from bivlm.checkpoint.shards import read_tensors
from bivlm.checkpoint.source import SourceModel
from bivlm.checkpoint.stacks import ExpertEntry
from bivlm.errors import InputError
from bivlm.families.experts import split_experts
from tiny.experts import KINDS, expert_family, expert_model
from tiny.language import tiny_language_model

GATE_UP = "model.language_model.layers.1.mlp.experts.gate_up_proj"
OF_3 = "model.language_model.layers.1.mlp.experts.3.gate_up_proj.weight"
CONVERTED = tuple(name for name in KINDS if name not in ("gemma4", "llama4"))


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    monkeypatch.setattr(families, "USED", {kind: expert_family(kind) for kind in KINDS})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    work = tmp_path_factory.mktemp("converted")
    return {kind: expert_model(kind, work / kind) for kind in CONVERTED}


def changed(folder, out, change):
    """A copy of a folder with one shard, whose tensors `change` has changed."""
    out.mkdir()
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    return out


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("kind", CONVERTED)
def test_every_parameter_is_the_one_that_from_pretrained_makes(kind, copy, folders):
    opened = SourceModel(folders[kind])
    made = (ConvertedEntry, ExpertEntry)
    assert any(isinstance(entry, made) for entry in opened.entries.values())
    assert not opened.extra
    whole = transformers.AutoModelForImageTextToText.from_pretrained(folders[kind])
    split_experts(whole)
    expected = whole.state_dict()
    found = opened.read(list(opened.entries), copy=copy)
    assert expected.keys() - found.keys() <= opened.model.all_tied_weights_keys.keys()
    for name, tensor in found.items():
        entry = opened.entries[name]
        assert (entry.shape, entry.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert entry.nbytes == tensor.nbytes
        if copy or isinstance(entry, made):  # no view that keeps more in memory
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("kind", CONVERTED)
def test_a_block_is_read_without_the_others_and_once(kind, folders, monkeypatch):
    opened, read = SourceModel(folders[kind]), Counter()

    def counted(entries, *, copy=True):
        wanted = list(entries)
        read.update(entry.key for entry in wanted)
        return read_tensors(wanted, copy=copy)

    monkeypatch.setattr(source, "read_tensors", counted)
    monkeypatch.setattr(conversion, "read_tensors", counted)
    monkeypatch.setattr(stacks, "read_tensors", counted)
    block = f"{KINDS[kind][2]}.1"
    with opened.present(block) as module:
        assert not any(parameter.is_meta for parameter in module.parameters())
    assert all(parameter.is_meta for parameter in module.parameters())
    assert {re.search(r"(?:layers|blocks)\.(\d+)", key)[1] for key in read} == {"1"}
    stacked = {key for key in read if key.endswith((".gate_up_proj", ".down_proj"))}  # read by slices
    assert {count for key, count in read.items() if key not in stacked} == {1}
    assert {read[key] for key in stacked} == ({8} if kind == "qwen3_vl_moe" else set())
    made = [entry for entry in opened.entries.values() if isinstance(entry, ConvertedEntry)]
    assert opened.conversion_bytes >= max((entry.nbytes for entry in made), default=0)


def test_the_dtype_is_the_stored_one_until_the_model_needs_it(tmp_path):
    folder = expert_model("qwen3_vl_moe", tmp_path / "model", torch.bfloat16)
    opened = SourceModel(folder)
    assert opened.read([OF_3])[OF_3].dtype == opened.entries[OF_3].dtype == torch.bfloat16
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    opened = SourceModel(folder)
    assert opened.read([OF_3])[OF_3].dtype == torch.bfloat16
    opened.materialize([OF_3])
    assert opened.model.get_parameter(OF_3).dtype == torch.float32


def test_a_missing_expert_is_named(folders, tmp_path):
    lost = "model.language_model.layers.1.mlp.experts.7.up_proj.weight"
    folder = changed(folders["qwen3_5_moe"], tmp_path / "model", lambda tensors: tensors.pop(lost))
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.experts.*cannot be done block by block"):
        SourceModel(folder)

    def without_the_last(tensors):
        for part in ("up_proj", "gate_proj"):
            tensors.pop(f"model.language_model.layers.1.mlp.experts.7.{part}.weight")

    folder = changed(folders["qwen3_5_moe"], tmp_path / "other", without_the_last)
    with pytest.raises(InputError, match=rf"makes {GATE_UP}, with 14 tensors in all, and it has the shape"):
        SourceModel(folder)


def test_a_parameter_that_is_stored_twice_is_refused(folders, tmp_path):
    folder = changed(
        folders["qwen3_5_moe"],
        tmp_path / "model",
        lambda tensors: tensors.update({GATE_UP: torch.ones(8, 96, 96)}),
    )
    with pytest.raises(InputError, match=f"makes {GATE_UP} .*, which is stored as well"):
        SourceModel(folder)


def test_a_value_that_is_not_finite_is_named_by_its_own_key(folders, tmp_path):
    bad = "model.language_model.layers.1.mlp.experts.3.up_proj.weight"
    folder = changed(
        folders["qwen3_5_moe"], tmp_path / "model", lambda tensors: tensors[bad][0, :3].fill_(torch.nan)
    )
    opened = SourceModel(folder)
    opened.read([OF_3.replace(".3.", ".2.")])
    with pytest.raises(InputError, match=f"{bad} holds 3 values that are NaN or infinite"):
        opened.read([OF_3])


def test_a_value_that_is_not_finite_is_named_by_the_expert_of_its_stack(folders, tmp_path):
    stack = "model.language_model.layers.1.mlp.experts.gate_up_proj"
    folder = changed(
        folders["qwen3_vl_moe"], tmp_path / "model", lambda tensors: tensors[stack][3, 0].fill_(torch.inf)
    )
    opened = SourceModel(folder)
    opened.read([OF_3.replace(".3.", ".2.")])
    with pytest.raises(InputError, match=r"experts\.gate_up_proj\[3\] holds 96 values"):
        opened.read([OF_3])


def test_what_the_model_does_not_have_is_copied_as_it_is_stored(folders, tmp_path):
    kept = {
        f"model.language_model.layers.9.mlp.experts.{i}.up_proj.weight": torch.ones(48, 96) for i in (0, 1)
    }
    folder = changed(folders["qwen3_5_moe"], tmp_path / "model", lambda tensors: tensors.update(kept))
    opened = SourceModel(folder)
    assert opened.extra.keys() == kept.keys()
    assert [opened.key_of(name) for name in opened.extra] == list(kept)


def test_an_adapter_is_merged_into_what_was_converted(folders, tmp_path):
    folder = changed(folders["molmo2"], tmp_path / "model", lambda tensors: None)
    name = "model.language_model.layers.0.self_attn.q_proj"
    plain = SourceModel(folder).read([f"{name}.weight"])[f"{name}.weight"]
    a, b = torch.ones(2, plain.shape[1]), torch.ones(plain.shape[0], 2)
    factors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    merged = SourceModel(folder, merge_adapter=True).read([f"{name}.weight"])[f"{name}.weight"]
    assert torch.equal(merged, plain + 2)


class ReadsValues(ConversionOps):
    """An operation that decides by the values that it gets."""

    def convert(self, input_dict, source_patterns, target_patterns, **kwargs):
        [(_, [tensor])] = input_dict.items()
        return {target_patterns[0]: tensor if tensor.sum().item() > 0 else -tensor}


def with_mapping(monkeypatch, *changes):
    monkeypatch.setattr(conversion, "get_model_conversion_mapping", lambda model: list(changes))


def test_an_operation_that_needs_values_is_refused_by_its_name(tmp_path, monkeypatch):
    folder = tiny_language_model("llama", tmp_path / "model", layers=1)
    with_mapping(monkeypatch, WeightConverter("gate_proj.weight", "gate_proj.weight", [ReadsValues()]))
    with pytest.raises(InputError, match=r"gate_proj.weight is converted .*\(ReadsValues\).*block by block"):
        SourceModel(folder)


@pytest.mark.parametrize(
    ("pattern", "replacement", "names"),
    [(r"\.old\.", ".gate_proj.", False), (r"\.old\.weight", ".gate_proj.weight", True)],
)
def test_keys_stay_where_packed_weights_are_renamed_as_the_weights_are(
    pattern, replacement, names, tmp_path, monkeypatch
):
    folder = tiny_language_model("llama", tmp_path / "model", layers=1)

    def older(tensors):
        tensors["model.layers.0.mlp.old.weight"] = tensors.pop("model.layers.0.mlp.gate_proj.weight")

    with_mapping(monkeypatch, WeightRenaming(pattern, replacement))
    opened = SourceModel(changed(folder, tmp_path / "older", older))
    assert opened.keys_are_names is names
    name = "model.layers.0.mlp.gate_proj.weight"
    assert opened.key_of(name) == (name if names else "model.layers.0.mlp.old.weight")
