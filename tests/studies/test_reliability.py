"""The reliability diagram has every bin where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from bivlm.eval.confidence import calibration
from bivlm.studies.reliability import reliability_plot


def test_marks_are_the_bins(tmp_path: Path, monkeypatch):
    drawn = []
    original = Axes.plot

    def plot(self, x, y, **options):
        drawn.append((list(x), list(y), options["label"]))
        return original(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", plot)
    rng = np.random.default_rng(0)
    confidences = 0.55 + 0.45 * rng.random(60)
    found = {
        "sure": calibration(confidences, (rng.random(60) < 0.6).astype(float)),
        "honest": calibration(confidences, (rng.random(60) < confidences).astype(float)),
    }
    reliability_plot(found, tmp_path / "reliability.png")
    diagonal, *lines = drawn
    assert diagonal[0] == diagonal[1]
    lowest = min(one.score for measured in found.values() for one in measured.bins)
    assert diagonal[0][0] <= lowest
    for (x, y, label), (name, measured) in zip(lines, found.items(), strict=True):
        assert x == [one.confidence for one in measured.bins]
        assert y == [one.score for one in measured.bins]
        assert label == f"{name}: 60 questions, ECE {measured.ece:.3f}"
    with Image.open(tmp_path / "reliability.png") as picture:
        assert picture.size == (960, 900)
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]
