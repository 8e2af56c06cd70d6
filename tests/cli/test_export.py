"""bivlm export."""

from __future__ import annotations

import json

import pytest

from tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("llava_siglip", tmp_path_factory.mktemp("export") / "model")


def test_files_and_how_to_ask_them(run, folder, tmp_path):
    code, text, _ = run("export", "gguf", folder, tmp_path / "out")
    assert code == 0
    model, projector = (tmp_path / "out" / name for name in ("model.gguf", "mmproj.gguf"))
    assert f"llama-mtmd-cli -m {model} --mmproj {projector}" in text
    code, _, error = run("export", "gguf", folder, tmp_path / "out")
    assert (code, "exists; choose another folder, or give --overwrite" in error) == (2, True)


def test_json(run, folder, tmp_path):
    code, text, _ = run("export", "gguf", folder, tmp_path / "out", "--type", "Q8_0", "--json")
    told = json.loads(text)
    assert (code, set(told["files"])) == (0, {"model.gguf", "mmproj.gguf"})
    assert set(told["types"]) == {"Q8_0", "F32"}


def test_other_types_and_programs(run, folder, tmp_path):
    code, _, error = run("export", "gguf", folder, tmp_path / "out", "--type", "Q4_K")
    assert (code, "choose F16, BF16, F32 or Q8_0" in error) == (2, True)
    code, _, error = run("export", "onnx", folder, tmp_path / "out")
    assert (code, "gguf" in error) == (2, True)
    assert not (tmp_path / "out").exists()
