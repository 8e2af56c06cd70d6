"""`bivlm verify`, and what `bivlm quantize` says when it is asked again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MIXED = Path(__file__).parents[1] / "reliability" / "mixed.toml"  # a recipe with several formats


@pytest.fixture
def packed(run, source, tmp_path):
    assert run("quantize", source, tmp_path / "out", "--preset", "rtn-3")[0] == 0
    return tmp_path / "out"


def test_an_undamaged_folder(run, packed):
    code, text, _ = run("verify", packed)
    assert code == 0
    assert "is undamaged" in text
    code, text, _ = run("verify", packed, "--json")
    found = json.loads(text)
    assert code == 0
    assert found["format_version"] == 2
    assert found["accepted"] == []
    assert found["modules"] > 20


def test_unfinished_work_is_called_so(run, packed):
    (packed / "config.json").unlink()
    (packed / ".bivlm-job").mkdir()
    code, _, error = run("verify", packed)
    assert code == 2
    assert "is unfinished work; run its `bivlm quantize` command again" in error


def test_it_needs_no_torch(run, source, packed, tmp_path):
    assert run("quantize", source, tmp_path / "mixed", "--preset", MIXED)[0] == 0
    modules = json.loads((tmp_path / "mixed" / "config.json").read_text())["quantization_config"]["modules"]
    assert len({spec["format"] for spec in modules.values()}) > 2
    code = (
        "import sys; sys.argv = ['bivlm', 'verify', sys.argv[1]]\nfrom bivlm import cli\ntry: cli.main()\n"
        "except SystemExit: print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    for folder in (packed, tmp_path / "mixed"):
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
        )
        assert "is undamaged" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


def test_a_change_is_named_and_can_be_accepted(run, packed):
    (packed / "chat_template.jinja").write_text("{{ messages }}")
    code, _, said = run("verify", packed)
    assert code == 2
    assert "chat_template.jinja has changed" in said
    code, text, _ = run("verify", packed, "--accept")
    assert code == 0
    assert "accepted: chat_template.jinja" in text
    assert run("verify", packed)[0] == 0


def test_a_damaged_folder_as_json(run, packed):
    shard = sorted(packed.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    code, text, said = run("verify", packed, "--json")
    assert code == 2
    assert json.loads(text)["error"]["type"] == "InputError"
    assert "have changed since they were written" in said


def test_a_folder_without_checksums(run, source):
    code, _, said = run("verify", source)
    assert code == 2
    assert "not packed by bivlm" in said


def test_the_same_command_again(run, source, packed):
    code, text, said = run("quantize", source, packed, "--preset", "rtn-3")
    assert code == 0
    assert "nothing to do" in text + said
    code, text, said = run("quantize", source, packed, "--preset", "rtn-3", "--json")
    assert code == 0
    assert json.loads(text)["recipe"] == "rtn-3"
