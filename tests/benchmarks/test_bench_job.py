"""How the seconds of single blocks are added up to those of whole models."""

import bench_job
from bench_job import BLOCKS, SAMPLES, STACKS, WHOLE, measured, page, whole

SECONDS = {
    "vision": {"forward passes": 2.0, "other": 0.5},
    "projector": {"factorization": 3.0},
    "language": {"forward passes": 1.0, "factorization": 4.0},
    "rest": {"gradients": 5.0},
}


def test_a_whole_model_is_its_blocks_and_the_rest():
    assert whole(SECONDS) == {
        "forward passes": BLOCKS["vision"] * 2.0 + BLOCKS["language"] * 1.0,
        "other": BLOCKS["vision"] * 0.5,
        "factorization": 3.0 + BLOCKS["language"] * 4.0,
        "gradients": 5.0,
    }


def test_the_page_compares_the_last_with_the_first():
    found = {"seconds": SECONDS, "peak": 2e9}
    row = {"recipe": "trellis-2", "samples": 4, "small": found, "large": found | {"peak": 5e9}}
    text = page([row | {"name": "before"}, row | {"name": "now"}], "a machine")
    assert text.count("1.00 times as long") == 2
    assert "2.00 GB (1.5 B), 5.00 GB (7 B)" in text


def test_a_version_without_parts_is_measured_twice_on_the_small_shape_alone(monkeypatch, tmp_path):
    def job(_python, _model, _recipe, samples):
        seconds = {f"{stack}: {WHOLE}": 5.0 + 2.0 * samples for stack in STACKS}
        return {"seconds": seconds, "peak": 1e9, "gradients": 8.0}

    monkeypatch.setattr(bench_job, "job", job)
    found = measured("python", tmp_path, "trellis-2", 4)
    assert found["seconds"] == {stack: {WHOLE: 5.0 + 2.0 * SAMPLES} for stack in STACKS}
    row = {"recipe": "trellis-2", "samples": 4}
    now = {"seconds": SECONDS, "peak": 2e9}
    text = page(
        [row | {"name": "before", "small": found}, row | {"name": "now", "small": now, "large": now}],
        "a machine",
    )
    assert text.count("times as long") == 1
    assert f"| {WHOLE} | 69.0 | 69.0 | 69.0 | {69 * (32 + 28 + 2):,.1f} | – | – | – |" in text


def test_gradients_grow_with_the_samples_that_are_differentiated(monkeypatch, tmp_path):
    seconds = {f"{stack}: {part}": 1.0 for stack in STACKS for part in ("gradients", "forward passes")}
    monkeypatch.setattr(bench_job, "job", lambda *_given: {"seconds": seconds, "peak": 1e9, "gradients": 2.0})
    found = measured("python", tmp_path, "trellis-2", 4)
    assert found["seconds"]["vision"] == {"gradients": 2.0, "forward passes": 8.0}
