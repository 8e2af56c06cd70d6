"""Commands that set many measurements side by side: what they print, write and keep."""

from __future__ import annotations

import json

import pytest

from bivlm.data.samples import read_samples
from bivlm.errors import InputError


def test_compare(run, source, tmp_path, questions):
    data = questions["DATA"]
    presets = "bivlm-paper:bands=1,salient_max=0,bivlm-paper:bands=2,salient_max=0"
    words = (
        "compare",
        source,
        "--data",
        data,
        "--out",
        tmp_path / "out",
        "--presets",
        presets,
        "--parts",
        "projector",
        "--max-new-tokens",
        2,
    )
    code, text, error = run(*words, "--json")
    assert code == 0
    found = json.loads(text)
    assert [row["preset"] for row in found["rows"]] == [
        "bivlm-paper:bands=1,salient_max=0",
        "bivlm-paper:bands=2,salient_max=0",
        "full precision",
    ]
    assert found["command"].startswith("bivlm compare ")
    assert error.count("packed in") == 2
    code, text, error = run(*words)
    assert code == 0
    assert error.count("measured before") == 3
    assert "true bits" in text
    assert (tmp_path / "out" / "comparison.png").exists()


def test_compare_draws_calibration_questions_with_every_seed(run, source, tmp_path, questions, monkeypatch):
    from bivlm.studies.compare import run as study

    told = {}

    def compare_presets(model, recipes, out, **options):
        told.update(options)
        raise InputError("enough")

    monkeypatch.setattr(study, "compare_presets", compare_presets)
    data = questions["DATA"]
    question = json.loads(data.read_text())
    data.write_text("".join(json.dumps({**question, "question": f"Colour {n}?"}) + "\n" for n in range(30)))
    words = ("compare", source, "--data", data, "--out", tmp_path / "out", "--calibration", 3, "--seeds", 3)
    assert run(*words, "--presets", "bivlm")[0] == 2
    draws = [told["calibration"], *told["further_draws"]]
    expected = [read_samples(data, split="train", limit=3, seed=seed) for seed in range(3)]
    assert [[one.question for one in draw] for draw in draws] == [
        [one.question for one in draw] for draw in expected
    ]
    assert len({tuple(one.question for one in draw) for draw in draws}) == 3
    assert run(*words, "--presets", "rtn-3")[0] == 2
    assert (told["calibration"], told["further_draws"]) == ((), []), "it needs none"


def test_compare_exits_with_2_when_a_preset_fails_and_measures_the_others(run, source, tmp_path, questions):
    data = questions["DATA"]
    recipe = tmp_path / "nowhere.toml"
    recipe.write_text(
        '[[rule]]\nquantizer = "bivlm"\nlinears = "*.nothing"\nsettings = { compensate = false }\n'
    )
    presets = ("--presets", recipe, "--presets", "bivlm-paper:bands=1,salient_max=0")
    words = (
        "compare",
        source,
        "--data",
        data,
        "--out",
        tmp_path / "out",
        *presets,
        "--parts",
        "projector",
        "--max-new-tokens",
        2,
    )
    code, text, error = run(*words)
    assert code == 2
    assert "1 of 2 runs failed" in error
    assert "failed: nowhere: recipe nowhere matches no linear" in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]["true_bits"] > 1


def test_prune(run, source, tmp_path, questions):
    data = questions["DATA"]
    words = (
        "prune",
        source,
        "--data",
        data,
        "--out",
        tmp_path / "out",
        "--pruners",
        "grid,attention:attending=last",
        "--layers",
        "1",
        "--max-new-tokens",
        2,
    )
    code, text, _ = run(*words, "--keep", "0.5,0.25", "--json")
    assert code == 0
    found = json.loads(text)
    assert [(cell["pruner"], cell["keep"]) for cell in found["cells"]] == [
        ("grid", 0.5), ("grid", 0.25), ("attention,attending=last", 0.5), ("attention,attending=last", 0.25),
    ]  # fmt: skip
    code, text, _ = run(*words, "--keep", "0.5")
    assert code == 0
    assert "language block 1" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "pruning.md",
        "pruning.json",
        "pruning.png",
    }


@pytest.mark.parametrize(
    "words", [("compare", "--presets", "rtn-3"), ("prune", "--layers", "1"), ("analyze",)]
)
def test_a_missing_matplotlib_is_told_before_anything_long(
    words, run, source, tmp_path, questions, monkeypatch
):
    monkeypatch.setattr("bivlm.studies.picture.find_spec", lambda name: None)
    data = () if words[0] == "analyze" else ("--data", questions["DATA"])
    code, _, error = run(words[0], source, *data, "--out", tmp_path / "out", *words[1:])
    assert (code, "pip install 'bivlm[plots]'" in error) == (2, True)
    assert not (tmp_path / "out").exists()


def test_analyze(run, source, tmp_path, monkeypatch):
    monkeypatch.setattr("bivlm.studies.analyze.weight.STEPS", 1)
    monkeypatch.setattr("bivlm.studies.analyze.plot.DPI", 40)
    code, text, _ = run("analyze", source, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(text)["command"].startswith("bivlm analyze ")
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == json.loads(text)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _, error = run("analyze", source, "--out", tmp_path / "out")
    assert (code, "holds files that no analysis wrote" in error) == (2, True)
