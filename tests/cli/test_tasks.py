"""Benchmarks from the command line."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

import bivlm
import bivlm.cli
from bivlm.checkpoint.source import SourceModel
from bivlm.cli.shared import app
from bivlm.data.general_set import general_samples
from bivlm.errors import InputError
from bivlm.job.samples import built_in
from bivlm.studies.compare import run as comparing
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
    assert {(group["group"], group["n"]) for group in result["groups"]} == {
        ("existence", 4),
        ("code_reasoning", 4),
    }


def test_compare_takes_a_benchmark_and_calibrates_on_the_built_in_set(mme, tmp_path):
    out = tmp_path / "comparison"
    told = run(
        "compare", embedded_model(), "--task", "mme", "--data", mme, "--presets", "gptq-2", "--parts",
        "projector", "--calibration", "4", "--out", out, "--json",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["metric"], found["questions"], found["calibration_samples"]) == ("mme", 8, 4)


def test_compare_calibrates_on_what_quantize_takes(mme, tmp_path, monkeypatch):
    """The same questions of the built-in set, for this model's tokenizer, in every draw."""
    given = {}

    def compare_presets(*_, calibration, further_draws, **__):
        given["draws"] = [calibration, *further_draws]
        raise InputError("enough")

    monkeypatch.setattr(comparing, "compare_presets", compare_presets)
    told = run(
        "compare", embedded_model(), "--task", "mme", "--data", mme, "--presets", "gptq-2", "--calibration",
        "24", "--seeds", "2", "--out", tmp_path / "comparison",
    )  # fmt: skip
    assert str(told.exception) == "enough"
    source = SourceModel(embedded_model())
    assert given["draws"] == [built_in(source, 24, seed) for seed in (0, 1)]
    assert given["draws"][0] != general_samples(24, 0)


def test_a_task_and_a_scorer_are_one_too_many(packed, mme):
    told = run("eval", packed, "--task", "mme", "--scorer", "pope", "--data", mme)
    assert isinstance(told.exception, InputError)
    assert "leave --scorer out" in str(told.exception)
