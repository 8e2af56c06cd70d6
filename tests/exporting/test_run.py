"""The files of an export, tensor by tensor, and everything that is refused."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
import transformers

import bivlm
from bivlm.errors import InputError
from bivlm.exporting import run, writer
from bivlm.exporting.table import EXPORTERS
from tiny import tiny_checkpoint, tiny_model
from tiny.language import tiny_language_model
from told import Told


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return tiny_checkpoint("llava_siglip", tmp_path_factory.mktemp("llava") / "modèle")


def tensors(path):
    """Every tensor of a file in float32, by name."""
    return {
        one.name: gguf.dequantize(one.data, one.tensor_type).reshape(one.shape[::-1])
        for one in gguf.GGUFReader(path).tensors
    }


def value(path, key):
    return gguf.GGUFReader(path).fields[key].contents()


def test_both_files(siglip, tmp_path):
    told = Told()
    done = bivlm.export_gguf(siglip, tmp_path / "aus gäbe", kind="f32", events=told)
    assert {name: (done.folder / name).stat().st_size for name in done.files} == dict(done.files)
    assert {path.name for path in done.folder.iterdir()} == {"model.gguf", "mmproj.gguf"}
    assert dict(done.types) == {"F32": 84}
    assert told.steps == [("tensors", step, 84) for step in range(1, 85)]
    state = {name: tensor.numpy() for name, tensor in tiny_model("llava_siglip").state_dict().items()}
    text, vision = tensors(done.folder / "model.gguf"), tensors(done.folder / "mmproj.gguf")
    block = "model.language_model.layers.1."
    assert np.array_equal(text["token_embd.weight"], state["model.language_model.embed_tokens.weight"])
    assert np.array_equal(text["blk.1.ffn_down.weight"], state[f"{block}mlp.down_proj.weight"])
    assert "output.weight" not in text  # tied
    heads = state[f"{block}self_attn.q_proj.weight"].reshape(4, 2, 12, 96)
    assert np.array_equal(text["blk.1.attn_q.weight"], heads.swapaxes(1, 2).reshape(96, 96))
    assert np.array_equal(vision["mm.2.bias"], state["model.multi_modal_projector.linear_2.bias"])
    positions = state["model.vision_tower.embeddings.position_embedding.weight"]
    assert np.array_equal(vision["v.position_embd.weight"], positions)
    assert value(done.folder / "model.gguf", "general.name") == "modèle"
    assert value(done.folder / "mmproj.gguf", "clip.vision.image_mean") == [0.5, 0.5, 0.5]


def test_the_same_bytes_again(siglip, tmp_path):
    first, second = (bivlm.export_gguf(siglip, tmp_path / name).folder for name in "ab")
    for name in ("model.gguf", "mmproj.gguf"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_types(siglip, tmp_path):
    done = bivlm.export_gguf(siglip, tmp_path / "out", kind="Q8_0")
    types = {one.name: one.tensor_type.name for one in gguf.GGUFReader(done.folder / "model.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == "F32"
    vision = {one.name: one.tensor_type.name for one in gguf.GGUFReader(done.folder / "mmproj.gguf").tensors}
    assert (vision["v.patch_embd.weight"], vision["v.position_embd.weight"]) == ("F32", "F32")


@pytest.mark.parametrize(
    ("preset", "settings", "kind"),
    [
        ("sign-1", {}, "Q1_0"),
        ("rtn-2", {"alphabet": 3, "group_size": 256, "zero_point": "middle", "scale_bits": 16}, "TQ2_0"),
    ],
)
def test_packed_codes_that_a_type_holds_are_kept_bit_for_bit(preset, settings, kind, tmp_path):
    config = transformers.AutoConfig.for_model(
        "qwen3", vocab_size=325, hidden_size=256, intermediate_size=512, num_hidden_layers=1, head_dim=64,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    source = tiny_language_model("llama", tmp_path / "model")
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(source)
    out = tmp_path / "out"
    bivlm.quantize(source, out, recipe=preset, settings=settings)
    done = bivlm.export_gguf(out, tmp_path / "gguf")
    assert done.types[kind] == 7
    model, _ = bivlm.load(out, dtype=torch.float32)
    stored = {one.name: one for one in gguf.GGUFReader(done.folder / "model.gguf").tensors}
    names = {"attn_q": "self_attn.q_proj", "attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}
    for target, module in names.items():
        one = stored[f"blk.0.{target}.weight"]
        packed = model.get_submodule(f"model.layers.0.{module}").packed
        assert one.tensor_type.name == kind
        if kind == "Q1_0":
            assert one.data.tobytes() == packed.tensors["blocks"].numpy().tobytes()
        else:
            weight = model.get_submodule(f"model.layers.0.{module}").dequantize().numpy()
            assert np.array_equal(gguf.dequantize(one.data, one.tensor_type), weight)


def test_a_language_model_is_one_file(tmp_path):
    source = tiny_language_model("qwen3", tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mmproj.gguf").write_text("of another model")
    (out / "notes.txt").write_text("mine")
    done = bivlm.export_gguf(source, out, overwrite=True)
    assert set(done.files) == {"model.gguf"}
    assert {path.name for path in out.iterdir()} == {"model.gguf", "notes.txt"}


def test_files_that_exist(siglip, tmp_path):
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(InputError, match=r"model.gguf exists; choose another folder, or give --overwrite"):
        bivlm.export_gguf(siglip, tmp_path)
    assert (tmp_path / "model.gguf").read_text() == "mine"
    bivlm.export_gguf(siglip, tmp_path, overwrite=True)
    assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"


def test_out_is_a_file_or_the_model(siglip, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file; OUT is a folder"):
        bivlm.export_gguf(siglip, tmp_path / "file")
    with pytest.raises(InputError, match="OUT is the model's own folder"):
        bivlm.export_gguf(siglip, siglip)


def test_no_model(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        bivlm.export_gguf(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty"):
        bivlm.export_gguf(tmp_path / "empty", tmp_path / "out")


def test_an_adapter(siglip, tmp_path):
    folder = tmp_path / "model"
    tiny_checkpoint("llava_siglip", folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter"):
        bivlm.export_gguf(folder, tmp_path / "out")


def test_a_family_without_an_exporter(tmp_path):
    folder = tiny_checkpoint("paligemma", tmp_path / "model")
    with pytest.raises(InputError, match="a paligemma has no exporter to GGUF; those that have one: gemma3,"):
        bivlm.export_gguf(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_language_model_without_an_exporter(tmp_path):
    folder = tiny_language_model("cohere", tmp_path / "model")
    with pytest.raises(InputError, match="its language model is a cohere, which has no exporter"):
        bivlm.export_gguf(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("gemma3", "not every sixth of its blocks alone sees everything"),
        ("qwen2_5_vl", "its windows have 32 pixels"),
        ("llava_pixtral", "its vision tower is a pixtral"),
    ],
)
def test_what_llama_cpp_computes_otherwise(kind, said, tmp_path):
    folder = tiny_checkpoint(kind, tmp_path / "model")
    with pytest.raises(InputError, match=f"{said}; llama.cpp computes something else"):
        bivlm.export_gguf(folder, tmp_path / "out")


def test_biases_of_a_language_model(tmp_path):
    folder = tiny_language_model("llama", tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(folder, attention_bias=True, mlp_bias=True)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    done = bivlm.export_gguf(folder, tmp_path / "out")
    assert {"blk.0.attn_q.bias", "blk.0.ffn_up.bias"} <= set(tensors(done.folder / "model.gguf"))


def test_a_weight_that_no_file_holds_is_refused(siglip, tmp_path, monkeypatch):
    def without_projector(weights, processor):
        plan = whole(weights, processor)
        return replace(plan, tensors=[one for one in plan.tensors if not one.name.startswith("mm.2")])

    whole = EXPORTERS["llava"].vision
    monkeypatch.setitem(EXPORTERS, "llava", replace(EXPORTERS["llava"], vision=without_projector))
    with pytest.raises(InputError, match=r"no place for model.multi_modal_projector.linear_2\..*2 weights"):
        bivlm.export_gguf(siglip, tmp_path / "out")


def test_a_clip_tower_is_told_about(tmp_path):
    told = Told()
    bivlm.export_gguf(tiny_checkpoint("llava", tmp_path / "model"), tmp_path / "out", events=told)
    assert any("issue 25814" in line for line in told.lines)


def test_nothing_is_left_when_the_disk_fills(siglip, tmp_path, monkeypatch):
    def full(one, weights):
        if one.planned.name == "mm.0.weight":
            raise OSError("512 requested and 12 written")
        return made(one, weights)

    made = writer._content
    monkeypatch.setattr(writer, "_content", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        bivlm.export_gguf(siglip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_seen_before(siglip, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"has room for 0\.00 GB"):
        bivlm.export_gguf(siglip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_interrupted_the_old_files_stay(siglip, tmp_path):
    out = tmp_path / "out"
    bivlm.export_gguf(siglip, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    stopping = Told(stop=lambda what, done: done == 80)
    with pytest.raises(KeyboardInterrupt):
        bivlm.export_gguf(siglip, out, kind="F32", overwrite=True, events=stopping)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_package_is_asked_for(siglip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"pip install 'bivlm\[export\]'"):
        bivlm.export_gguf(siglip, tmp_path / "out")


def test_all_exporters_are_families_of_the_package():
    assert set(EXPORTERS) <= set(bivlm.families.FAMILIES)
