"""How the seconds of single blocks are added up to those of whole models."""

import pytest

import bench_job
from bench_job import BLOCKS, LARGE, SAMPLES, SMALL, STACKS, WHOLE, growth, measured, page, whole

SECONDS = {
    "vision": {"forward passes": 2.0, "other": 0.5},
    "projector": {"factorization": 3.0},
    "language": {"forward passes": 1.0, "factorization": 4.0},
    "rest": {"gradients": 5.0},
}


def test_a_whole_model_is_its_blocks_and_the_rest():
    assert whole(SECONDS, {}) == {
        "forward passes": BLOCKS["vision"] * 2.0 + BLOCKS["language"] * 1.0,
        "other": BLOCKS["vision"] * 0.5,
        "factorization": 3.0 + BLOCKS["language"] * 4.0,
        "gradients": 5.0,
    }


def test_parts_grow_with_their_operations_in_language_blocks_alone():
    grown = growth(SMALL, LARGE)
    weights = [sum(columns * sum(rows) for columns, rows in shape.inputs) for shape in (SMALL, LARGE)]
    assert weights == [46_792_704, 233_046_016]  # of a block of Qwen2.5-1.5B, and of Qwen2.5-7B
    assert grown["forward passes"] == weights[1] / weights[0]
    assert grown["factorization"] == pytest.approx((18944 / 8960) ** 3, rel=0.02)
    found, small = whole(SECONDS, grown), whole(SECONDS, {})
    assert found["factorization"] == 3.0 + BLOCKS["language"] * 4.0 * grown["factorization"]
    assert (found["other"], found["gradients"]) == (small["other"], small["gradients"])


def test_the_page_compares_the_last_with_the_first():
    row = {"recipe": "trellis-2", "samples": 4, "seconds": SECONDS, "peak": 2e9}
    text = page([row | {"name": "before"}, row | {"name": "now"}], "a machine")
    assert text.count("1.00 times as long") == 2
    assert "2.00 GB" in text


def test_a_version_without_parts_is_measured_twice(monkeypatch, tmp_path):
    def job(_python, _model, _recipe, samples):
        return {"seconds": {f"{stack}: {WHOLE}": 5.0 + 2.0 * samples for stack in STACKS}, "peak": 1e9}

    monkeypatch.setattr(bench_job, "job", job)
    found = measured("python", tmp_path, "trellis-2", 4)
    assert found["seconds"] == {stack: {WHOLE: 5.0 + 2.0 * SAMPLES} for stack in STACKS}
    row = {"recipe": "trellis-2", "samples": 4, "peak": 2e9}
    text = page([row | found | {"name": "before"}, row | {"name": "now", "seconds": SECONDS}], "a machine")
    assert text.count("times as long") == 1
    assert f"| {WHOLE} | 69.0 | 69.0 | 69.0 | {69 * (32 + 28 + 2):,.1f} | – |" in text
