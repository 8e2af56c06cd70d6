"""bench_embedding: rows of a short run on an untrained model, kept and continued, and the page's tests."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import bench_embedding
from embedding_page import FULL_PRECISION, against, clusters, hits, pair_table, table, unsure_table
from tiny import tiny_checkpoint


def row(preset: str, draw: int, ranks: str, drift: float = 0.1, **more: object) -> dict[str, object]:
    numbers = dict.fromkeys(("hit5", "mrr", "ndcg", "hit1_by_caption", "agreement"), 0.5)
    unsure = dict.fromkeys(("spearman_full", "r2_full", "spearman_own", "r2_own"), 0.25)
    first = sum(rank == "1" for rank in ranks.split()) / len(ranks.split())
    return {"preset": preset, "draw": draw, "ranks": ranks, "hit1": first, "drift": drift, "bits": 2.0,
            "bytes": 3e6, **numbers, **unsure, **more}  # fmt: skip


FULL = row(FULL_PRECISION, -1, "1 1 1 1 1 1 1 2", captions=8)
WORSE = [row("a", draw, "2 3 2 2 2 2 2 2", 0.1 + draw / 100) for draw in range(3)]
BETTER = [row("a,fidelity=embedding", draw, "1 1 1 1 1 1 1 1", 0.05) for draw in range(3)]


def test_hits_are_means_over_draws_and_compared_picture_by_picture():
    assert hits([row("a", 0, "1 2 1"), row("a", 1, "1 1 3")]) == [1.0, 0.5, 0.5]
    told = against([FULL, *WORSE, *BETTER])
    assert told["a"].verdict == "worse"
    assert told["a"].difference == pytest.approx(-7 / 8)
    assert told["a,fidelity=embedding"].verdict == "not told apart"
    assert told["a"].p == pytest.approx(2 * 2 / 2**7)  # seven lost, none gained; two presets


def test_a_preset_is_compared_with_itself_without_the_setting():
    ((name, _, difference, _, drifts, less, _),) = pair_table([FULL, *WORSE, *BETTER])
    assert (name, difference, drifts, less) == ("a", "+1.000", "1.10e-01, 5.00e-02", "yes")
    assert pair_table([FULL, *BETTER]) == []


def test_tables_leave_out_what_failed():
    rows = [FULL, *WORSE, {"preset": "b", "draw": 0, "failed": "no"}]
    assert [line[0] for line in table(rows)] == [FULL_PRECISION, "a"]
    assert [line[0] for line in unsure_table(rows)] == [FULL_PRECISION, "a"]


def test_pictures_of_a_caption_go_together():
    assert clusters([{**FULL, "captions": 4}]) == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.slow
def test_a_short_run(tmp_path, monkeypatch, capsys):
    model = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    options = ["--model", str(model), "--presets", "rtn-3,gptq-2:group_size=8", "--draws", "2"]
    options += ["--samples", "2", "--captions", "12", "--rounds", "2"]
    options += ["--json", str(tmp_path / "e.json"), "--markdown", str(tmp_path / "e.md")]
    monkeypatch.setattr(sys, "argv", ["bench_embedding.py", *options])
    bench_embedding.main()
    content = json.loads((tmp_path / "e.json").read_text())
    keys = [(row["preset"], row.get("draw")) for row in content["rows"]]
    gptq = "gptq-2:group_size=8"
    assert keys == [(FULL_PRECISION, None), ("rtn-3", 0), (gptq, 0), (gptq, 1)]
    full, *others = content["rows"]
    assert full["drift"] < 1e-6
    assert full["agreement"] == 1
    assert all(row["drift"] > 0 and len(row["ranks"].split()) == 24 for row in others)
    page = (tmp_path / "e.md").read_text()
    assert "How unsure the search is" in page
    assert str(tmp_path) not in page
    monkeypatch.setattr(bench_embedding.Bench, "measure", lambda *_: pytest.fail("measured again"))
    bench_embedding.main()
    assert json.loads((tmp_path / "e.json").read_text()) == content
    monkeypatch.setattr(sys, "argv", ["bench_embedding.py", *options, "--captions", "193"])
    with pytest.raises(SystemExit, match="2"):
        bench_embedding.main()
    assert "there are 192 captions" in capsys.readouterr().err
