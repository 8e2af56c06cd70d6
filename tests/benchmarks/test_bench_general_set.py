"""The benchmark of the built-in set: what is drawn, when a row is measured again, its ratios, and a whole
run.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import bench_general_set
from bench_draws import Draws
from bench_general_set import GENERAL, NONE, OWN, SPELLED, Bench, Questions, measured, set_digest, table
from bivlm.data.samples import read_samples
from bivlm.types import PARTS
from preset_tables import recipes_of
from tiny import tiny_checkpoint

OPTIONS = Namespace(text=None, own=3, general="4,6:1", spelled="5", draws=2, json=None)


@pytest.fixture
def bench(tmp_path) -> Bench:
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    draws = Draws(folder, read_samples("easy-vqa", limit=2), "easy-vqa", 3, PARTS, tmp_path)
    return Bench(Questions(draws, 3), tmp_path)


def row(source: str, draw: int, kl: float, **more) -> dict:
    figures = {"kl": 3 * kl, "kl_geometric": kl, "accuracy": 0.5, "agreement": 0.75, "bits": 2.0}
    return {"preset": "trellis-2", "source": source, "samples": 4, "draw": draw, **figures, **more}


def test_every_source_draws_what_its_name_says(bench):
    tokens = bench.tokens
    assert tokens("a b") < tokens("a b c d e f")
    own = bench.drawn(OWN, 3, 1)
    assert own == read_samples("easy-vqa", split="train", limit=3, seed=1)
    general, spelled = bench.drawn(GENERAL, 20, 0), bench.drawn(SPELLED, 20, 0)
    assert {sample.origin.partition(":")[0] for sample in (*general, *spelled)} == {"general"}
    words = [sum(tokens(sample.question) for sample in drawn) for drawn in (general, spelled)]
    length = [sum(len(sample.question.encode()) for sample in drawn) for drawn in (general, spelled)]
    assert words[0] / length[0] < words[1] / length[1]
    assert bench.drawn(NONE, 0, 0) == ()


def test_rows_are_kept_until_the_set_changes(bench, tmp_path, monkeypatch):
    """Every preset with every source and draw, one draw and no feedback where nothing is calibrated on."""
    seen = []

    def measure(_, source, samples, draw, name, recipe, events):
        seen.append((source, samples, draw, recipe.needs_data))
        settings = bench_general_set.plain_recipe(recipe)
        return row(source, draw, 1.0, samples=samples, set=bench.set, **settings)

    monkeypatch.setattr(Bench, "measure", measure)
    monkeypatch.setattr(Questions, "full_precision", lambda _: {"preset": "full precision"})
    options = Namespace(**{**vars(OPTIONS), "json": tmp_path / "rows.json"})
    rows = measured(bench, recipes_of(["trellis-2"]), options, None)
    assert len(rows) == 1 + 2 + (2 + 1) + 2 + 1
    assert [one for one in seen if not one[3]] == [(NONE, 0, 0, False)]
    seen.clear()
    assert measured(bench, recipes_of(["trellis-2"]), options, None) == rows
    assert seen == []
    text = options.json.read_text()
    options.json.write_text(text.replace(bench.set, "another"))
    measured(bench, recipes_of(["trellis-2"]), options, None)
    assert len(seen) == len(rows) - 1


def test_the_digest_tells_texts_from_pictures():
    assert set_digest(True) != set_digest(False)
    assert set_digest(True) == set_digest(True)


def test_ratios_are_those_of_means_over_draws(bench):
    rows = [{"preset": "full precision", "accuracy": 1.0}, row(OWN, 0, 1e-5), row(OWN, 1, 3e-5)]
    rows += [row(GENERAL, 0, 2e-5), row(GENERAL, 1, 4e-5), row(NONE, 0, 1e-3)]
    cells = table(bench.judged, rows)
    assert [line[2] for line in cells] == ["", OWN, GENERAL, NONE]
    assert [line[6] for line in cells] == ["–", "1.00", "1.50", "50.00"]
    assert cells[2][5] == "3.00e-05"


@pytest.mark.slow
def test_the_whole_run_goes_on_and_writes_its_table(tmp_path, monkeypatch):
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    options = ["--model", str(folder), "--presets", "trellis-2", "--own", "2", "--general", "2"]
    options += ["--questions", "2", "--draws", "1", "--threads", "1"]
    options += ["--json", str(tmp_path / "rows.json"), "--markdown", str(tmp_path / "rows.md")]
    monkeypatch.setattr(sys, "argv", ["bench_general_set.py", *options])
    bench_general_set.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [one.get("source") for one in rows] == [None, OWN, GENERAL, NONE]
    assert all(math.isfinite(one["kl_geometric"]) for one in rows[1:])
    assert "| general |" in Path(tmp_path / "rows.md").read_text()
