"""Which files hold the weights: as transformers decides it, or refused by name."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bivlm
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.job.run import quantize
from tiny.language import tiny_language_model

RTN = {"recipe": "rtn-2"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny_language_model("llama", tmp_path_factory.mktemp("source") / "model", torch.bfloat16, layers=1)


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def sharded(folder, size="20KB"):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=size)
    return model


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_stale_index_is_ignored_as_transformers_ignores_it(folder, tmp_path):
    sharded(folder).save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists()
    assert weight_files(folder) == [folder / "model.safetensors"]
    bivlm.load(quantize(folder, tmp_path / "out", **RTN))
    bivlm.load(folder)


def test_a_stale_index_of_bivlms_own_folder_has_no_say(folder, tmp_path):
    out = quantize(folder, tmp_path / "out", **RTN)
    model = bivlm.load(out)[0]
    model.save_pretrained(out)
    assert weight_files(out) == [out / "model.safetensors"]
    again = bivlm.load(out)[0]
    tokens = torch.arange(8)[None]
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, again(tokens).logits)


def test_single_file_and_complete_index_together(folder):
    """transformers takes the single file."""
    whole = load_file(folder / "model.safetensors")
    sharded(folder)
    for tensor in whole.values():
        tensor.zero_()
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ours = bivlm.load(folder)[0]
    assert not theirs.lm_head.weight.any()
    assert not ours.lm_head.weight.any()


def test_the_file_that_the_config_names(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    edit(folder / "config.json", lambda config: config.update(transformers_weights="best.safetensors"))
    transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert weight_files(folder) == [folder / "best.safetensors"]
    out = quantize(folder, tmp_path / "out", **RTN)
    assert "transformers_weights" not in json.loads((out / "config.json").read_text())
    bivlm.load(out)
    edit(folder / "config.json", lambda config: config.update(transformers_weights="../best.safetensors"))
    with pytest.raises(InputError, match="transformers_weights is"):
        weight_files(folder)


def test_a_variant_alone_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    with pytest.raises(InputError, match=r"only the variant model\.fp16\.safetensors"):
        weight_files(folder)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "/dev/zero",
        "../outside.safetensors",
        "evil.bin",
        "a/b.safetensors",
        "a\\b.safetensors",
        ".hidden.safetensors",
        "",
        "x\0.safetensors",
        5,
        None,
        ["model.safetensors"],
        {},
    ],
)
def test_an_index_names_plain_safetensors_files_only(name, folder, tmp_path):
    sharded(folder)
    index = folder / "model.safetensors.index.json"
    edit(index, lambda content: content["weight_map"].update({"lm_head.weight": name}))
    with pytest.raises(InputError, match="weight_map names"):
        weight_files(folder)
    with pytest.raises(InputError, match="weight_map names"):
        bivlm.load(folder)
    with pytest.raises(InputError, match="weight_map names"):
        quantize(folder, tmp_path / "out", **RTN)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "", "nonsense"])
def test_a_damaged_index(content, folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="damaged"):
        weight_files(folder)


def test_a_tensor_in_two_shards(folder, tmp_path):
    sharded(folder)
    first, second = weight_files(folder)[:2]
    save_file({**load_file(second), **load_file(first)}, second, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"is in \S*{first.name} and in {second.name}"):
        quantize(folder, tmp_path / "out", **RTN)


def test_a_shard_that_is_a_folder(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(InputError, match="no weights in safetensors"):
        weight_files(folder)
