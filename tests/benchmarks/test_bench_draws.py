"""The benchmark of calibration draws: what it measures against an evaluation, its plan, its table, and a run
that goes on.
"""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

import bench_draws
from bench_draws import MEASURES, Draws, planned, question_divergences, summary
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.run import evaluate
from bivlm.events import SILENT
from bivlm.job.recipe import Recipe, Rule, load_recipe
from bivlm.loading import load
from comparing import LANGUAGE
from preset_tables import recipes_of
from tiny import tiny_checkpoint

PRESET = "gptq-2:group_size=8"


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(bench_draws, "NEW_TOKENS", 3)


@pytest.fixture
def draws(tmp_path) -> Draws:
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    questions = read_samples("easy-vqa", limit=5)
    return Draws(folder, questions, "easy-vqa", 2, LANGUAGE, tmp_path / "work")


def test_a_draw_is_judged_by_the_packed_models_answers_and_its_distance(draws):
    """The divergences of the questions add up to that of their tokens, which an evaluation finds."""
    row = draws.measure(PRESET, load_recipe(PRESET), 0, 0, SILENT)
    kept, full = draws.reference
    model, processor = load(draws.work / "packed", expand=True)
    result = evaluate(
        model, processor, draws.questions, reference=kept, max_new_tokens=bench_draws.NEW_TOKENS
    )
    pairs = zip(result.records, full.records, strict=True)
    assert row["agreement"] == sum(mine.answer == theirs.answer for mine, theirs in pairs) / 5
    found = question_divergences(model, processor, draws.questions, kept)
    lengths = kept.batch(0).mask.sum(1).tolist()
    total = sum(one * length for one, length in zip(found, lengths, strict=True))
    assert total / sum(lengths) == pytest.approx(result.kl)
    assert row["kl"] == pytest.approx(sum(found) / 5)
    assert 0 < row["kl_geometric"] <= row["kl"]
    other = draws.measure(PRESET, load_recipe(PRESET), 1, 0, SILENT)
    assert other["kl"] != row["kl"]


def test_what_cannot_be_packed_is_a_row_with_its_reason(draws):
    nothing = Recipe("nothing", (Rule("rtn", linears="*.none"),))
    assert "matches no linear" in draws.measure("nothing", nothing, 0, 0, SILENT)["failed"]


def test_rotations_need_a_method_with_a_seed_and_presets_without_data_one_draw():
    plan = list(planned(recipes_of(["trellis-2,rtn-3"]), 2, 1))
    assert [(name, draw) for name, _, draw, _ in plan] == [("trellis-2", 0), ("trellis-2", 1), ("rtn-3", 0)]
    turned = list(planned(recipes_of(["trellis-2"]), 2, 2))
    assert [(draw, rotation) for _, _, draw, rotation in turned] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert turned[1][1].rules[0].settings["seed"] == 1
    with pytest.raises(InputError, match="seed"):
        list(planned(recipes_of(["rtn-3"]), 1, 2))


def test_the_summary_knows_which_end_is_worst():
    accuracy, divergence = MEASURES[0], MEASURES[2]
    assert summary([0.5, 0.7], accuracy) == ["0.6000", "0.1000", "0.5000", "0.7000", "0.2000"]
    assert summary([1e-2, 3e-2], divergence)[2:4] == ["3.00e-02", "1.00e-02"]
    assert summary([0.5], accuracy)[1] == "–"


def test_the_whole_run_goes_on_and_writes_its_table(tmp_path, monkeypatch, capsys):
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    options = ["--model", str(folder), "--presets", "bivlm-paper:bands=1,salient_max=0"]
    options += ["--questions", "3", "--samples", "2", "--threads", "1", "--parts", "language"]
    options += ["--json", str(tmp_path / "rows.json"), "--markdown", str(tmp_path / "rows.md")]
    monkeypatch.setattr(sys, "argv", ["bench_draws.py", *options])
    bench_draws.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["preset"] for row in rows] == ["full precision", "bivlm-paper:bands=1,salient_max=0"]
    assert math.isfinite(rows[1]["kl"])
    page = (tmp_path / "rows.md").read_text()
    assert "| KL, geometric mean |" in page
    assert str(tmp_path) not in page
    monkeypatch.setattr(Draws, "measure", lambda *_: pytest.fail("measured again"))
    bench_draws.main()
    monkeypatch.setattr(sys, "argv", ["bench_draws.py", *options, "--questions", "4"])
    with pytest.raises(SystemExit, match="2"):
        bench_draws.main()
    assert "another protocol (questions: 3, now 4)" in capsys.readouterr().err
