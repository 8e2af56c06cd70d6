"""The scripts in examples/ run as their first lines say, on small models and a few questions of easy-VQA."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch

from bivlm.data.samples import read_samples
from bivlm.zoo import embedded_model
from tiny import tiny_checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(capsys):
    """Call the main of a script; returns the lines that it printed."""

    def call(script, *arguments):
        runpy.run_path(str(EXAMPLES / script))["main"]([str(argument) for argument in arguments])
        return capsys.readouterr().out.splitlines()

    return call


def test_every_script_has_a_test():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


def test_quantize_and_ask(run, tmp_path):
    image = read_samples("easy-vqa", split="test", limit=1)[0].image
    *account, answer = run(
        "quantize_and_ask.py", embedded_model(), tmp_path / "out", image, "is there a shape?"
    )
    assert (tmp_path / "out" / "config.json").exists()
    assert 3.0 < float(re.search(r"at (\S+) bits per weight", account[0])[1]) < 3.3
    before, after = map(float, re.findall(r"(\S+) MB", account[1]))
    assert after < before / 3
    assert answer in {"yes", "no"}


def test_compare_presets(run, tmp_path):
    lines = [
        json.dumps({"image": str(sample.image), "question": sample.question, "answers": list(sample.answers)})
        for sample in read_samples("easy-vqa", split="test", limit=16)
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(lines))
    model = tiny_checkpoint("llava", tmp_path / "model", torch.bfloat16)
    printed = run("compare_presets.py", model, questions, tmp_path / "out")
    assert {line.partition(":")[0] for line in printed} == {"full precision", "gptq-2", "trellis-2"}
    assert all(re.search(r": \d+\.\d\d bits, accuracy \d+\.\d%, KL \d", line) for line in printed)
    assert (tmp_path / "out" / "comparison.md").exists()


def test_one_layer(run):
    _, *rows = run("one_layer.py", "--bits", 2, "--features", 64, 128)
    found = {name: (float(bits), float(error)) for name, bits, error in map(str.split, rows)}
    assert set(found) == {"rtn", "gptq", "trellis"}
    assert all(2.0 <= bits < 2.6 for bits, _ in found.values())
    assert found["rtn"][1] > found["gptq"][1] > found["trellis"][1]
