"""What comes along from a source folder: everything that belongs to the model, nothing that runs or points
elsewhere.
"""

import json
import os

import pytest
import torch

import bivlm
from bivlm.checkpoint.companions import companions
from bivlm.errors import InputError
from bivlm.job.run import quantize
from tiny.language import tiny_language_model
from told import Told


@pytest.fixture
def source(tmp_path):
    return tiny_language_model("llama", tmp_path / "source", torch.bfloat16, layers=1)


def packed(source, out):
    told = Told()
    return quantize(source, out, recipe="rtn-2", events=told), told.lines


def test_folders_of_templates_come_along(source, tmp_path):
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    (source / "docs" / "more").mkdir(parents=True)
    (source / "docs" / "more" / "use.md").write_text("# use")
    (source / "README.md").write_text("# the source")
    (source / "LICENSE").write_text("Apache-2.0")
    out, lines = packed(source, tmp_path / "out")
    assert (out / "additional_chat_templates" / "tool.jinja").read_text() == "{{ messages }}"
    assert (out / "docs" / "more" / "use.md").read_text() == "# use"
    assert (out / "README.original.md").read_text() == "# the source"
    assert (out / "LICENSE").read_text() == "Apache-2.0"
    assert not lines
    (out / "additional_chat_templates" / "tool.jinja").write_text("{{ changed }}")
    with pytest.raises(InputError, match=r"tool\.jinja has changed"):
        bivlm.load(out)


def test_code_is_not_copied_and_auto_map_is_taken_out(source, tmp_path):
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "custom_generate").mkdir()
    (source / "custom_generate" / "generate.py").write_text("raise SystemExit")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        content = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps({**content, "auto_map": {"AutoConfig": "modeling_evil.Evil"}}))
    out, lines = packed(source, tmp_path / "out")
    assert not list(out.rglob("*.py"))
    assert "auto_map" not in "".join(path.read_text() for path in out.glob("*.json"))
    assert any("modeling_evil.py" in line and "code" in line for line in lines)
    assert any("custom_generate/" in line for line in lines)
    bivlm.load(out)


def test_links_to_other_places_are_not_followed(source, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (source / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (source / "loop").symlink_to("loop")
    (source / "deep").mkdir()
    (source / "deep" / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (source / "here.txt").symlink_to("tokenizer_config.json")
    out, lines = packed(source, tmp_path / "out")
    assert not (out / "notes.txt").exists()
    assert not (out / "deep").exists()
    assert not (out / "here.txt").is_symlink()
    assert (out / "here.txt").read_bytes() == (source / "tokenizer_config.json").read_bytes()
    assert any("notes.txt" in line and "outside" in line for line in lines)


def test_a_snapshot_of_the_hubs_cache_is_all_links(source, tmp_path):
    blobs = tmp_path / "models--me--tiny" / "blobs"
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / "0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    out, lines = packed(snapshot, tmp_path / "out")
    assert (out / "tokenizer.json").is_file()
    assert not (out / "tokenizer.json").is_symlink()
    assert not lines
    bivlm.load(out)


def test_other_weights_and_hidden_files_stay(source, tmp_path):
    (source / "onnx").mkdir()
    (source / "onnx" / "model.onnx").write_bytes(b"x")
    (source / "pytorch_model.bin").write_bytes(b"x")
    (source / ".gitattributes").write_text("x")
    found = companions(source)
    assert found.left_out == {"onnx/": "it holds weights or code"}
    assert not {"pytorch_model.bin", ".gitattributes"} & {path.name for path in found.copied}


def test_a_pipe_is_not_opened(source, tmp_path):
    os.mkfifo(source / "pipe.json")
    with pytest.raises(InputError, match=r"pipe\.json is no file but a pipe"):
        packed(source, tmp_path / "out")
    with pytest.raises(InputError, match=r"pipe\.json is no file but a pipe"):
        bivlm.load(source)


def test_out_inside_the_source(source):
    out, _ = packed(source, source / "packed")
    assert not (out / "packed").exists()
    bivlm.load(out)
