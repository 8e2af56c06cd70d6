"""`bivlm inspect`: what it prints, and that it starts without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bivlm.checkpoint.verify import accept_files
from tiny.language import tiny_language_model

MIXED = Path(__file__).parents[1] / "reliability" / "mixed.toml"  # a recipe with several formats
WAYS = ([], ["--layers"], ["--experts"], ["--layers", "--experts"], ["--json"])
CODE = """
import sys
from bivlm import cli
sys.argv = ["bivlm", "inspect", *sys.argv[1:]]
try: cli.main()
except SystemExit: print([name for name in ("torch", "transformers") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    """Two packed folders: one with several formats, one with experts."""
    from bivlm.job.run import quantize

    work = tmp_path_factory.mktemp("inspect")
    experts = tiny_language_model("qwen3_moe", work / "experts")
    questions = [str(number) for number in range(4)]
    data = work / "questions.jsonl"
    data.write_text("".join(json.dumps({"question": one, "answer": one}) + "\n" for one in questions))
    return (
        quantize(source, work / "mixed", recipe=MIXED),
        quantize(experts, work / "routed", recipe="gptq-2", data=str(data), samples=4),
    )


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
def test_both_roads_print_the_same(run, packed, words):
    for folder in packed:
        code, quick, _ = run("inspect", folder, *words)
        assert code == 0
        config = folder / "config.json"
        text = config.read_text()
        config.write_text(text.replace(json.loads(text)["quantization_config"]["stacks"]["crc32"], "0" * 8))
        accept_files(folder)
        assert run("inspect", folder, *words)[:2] == (0, quick)
        config.write_text(text)
        accept_files(folder)


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
def test_it_needs_no_torch(packed, words):
    for folder in packed:
        done = subprocess.run(
            [sys.executable, "-c", CODE, folder, *words], capture_output=True, text=True, check=True
        )
        assert folder.name == "routed" or "vision" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


def test_an_edited_config_is_refused_by_name(run, source, tmp_path):
    assert run("quantize", source, tmp_path / "out", "--preset", "rtn-3")[0] == 0
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace("vision", "language"))
    code, _, error = run("inspect", tmp_path / "out")
    assert code == 2
    assert "config.json" in error


def test_a_full_precision_folder_is_refused_with_advice(run, source):
    code, _, error = run("inspect", source)
    assert code == 2
    assert "is not quantized by bivlm; `bivlm quantize" in error
