"""Benchmarks from the command line."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

import bivlm
import bivlm.cli
from bivlm.cli.shared import app
from bivlm.errors import InputError
from bivlm.zoo import embedded_model


@pytest.fixture(scope="module")
def mme(tmp_path_factory):
    """Two subtasks of MME as its authors hand them out."""
    folder = tmp_path_factory.mktemp("mme")
    for subtask in ("existence", "code_reasoning"):
        (folder / subtask).mkdir()
        for stem, colour in (("1", "red"), ("2", "blue")):
            Image.new("RGB", (64, 64), colour).save(folder / subtask / f"{stem}.png")
            ask = "\n".join(
                f"Is it {one}? Please answer yes or no.\t{'Yes' if one == colour else 'No'}"
                for one in ("red", "blue")
            )
            (folder / subtask / f"{stem}.txt").write_text(ask)
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return bivlm.quantize(embedded_model(), tmp_path_factory.mktemp("tasks") / "packed", recipe="rtn-2")


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_eval_scores_a_benchmark_by_its_rule(packed, mme):
    told = run("eval", packed, "--task", "mme", "--data", mme, "--json")
    assert told.exit_code == 0, told.output
    result = json.loads(told.stdout)
    assert (result["n"], result["metric"], result["max_new_tokens"]) == (8, "mme", 16)
    assert set(result["aggregates"]) >= {"perception", "cognition"}


def test_compare_takes_a_benchmark_and_calibrates_on_the_built_in_set(mme, tmp_path):
    out = tmp_path / "comparison"
    told = run(
        "compare", embedded_model(), "--task", "mme", "--data", mme, "--presets", "gptq-2", "--parts",
        "projector", "--calibration", "4", "--out", out, "--json",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["metric"], found["questions"], found["calibration_samples"]) == ("mme", 8, 4)


def test_a_task_and_a_scorer_are_one_too_many(packed, mme):
    told = run("eval", packed, "--task", "mme", "--scorer", "pope", "--data", mme)
    assert isinstance(told.exception, InputError)
    assert "leave --scorer out" in str(told.exception)
