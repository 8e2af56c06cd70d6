"""bench_masks: rows of a short run on a tiny SAM, kept and continued."""

import json
import sys

import pytest

import bench_masks
from tiny.vision import seeing_checkpoint

pytestmark = pytest.mark.slow


def test_a_short_run(tmp_path, monkeypatch, capsys):
    model = seeing_checkpoint("sam", tmp_path / "model")
    options = ["--model", str(model), "--presets", "rtn-3,gptq-3", "--draws", "2", "--samples", "2"]
    options += ["--scenes", "3", "--json", str(tmp_path / "m.json"), "--markdown", str(tmp_path / "m.md")]
    monkeypatch.setattr(sys, "argv", ["bench_masks.py", *options])
    bench_masks.main()
    content = json.loads((tmp_path / "m.json").read_text())
    keys = [(row["preset"], row.get("parts"), row.get("draw")) for row in content["rows"]]
    assert keys[0] == ("full precision", None, None)
    assert sorted(map(str, keys[1:])) == sorted(
        str((name, parts, draw))
        for name, draws in (("rtn-3", 1), ("gptq-3", 2))
        for parts in (["vision"], ["vision", "projector"])
        for draw in range(draws)
    )
    assert content["rows"][0]["iou"] == 1
    assert all(0 <= row["true_iou"] <= 1 for row in content["rows"])
    assert "| gptq-3 | vision, projector |" in (tmp_path / "m.md").read_text()
    monkeypatch.setattr(bench_masks.Bench, "measure", None)
    bench_masks.main()
    assert json.loads((tmp_path / "m.json").read_text()) == content
