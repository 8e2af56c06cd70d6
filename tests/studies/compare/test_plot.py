"""The picture: every mark where its numbers are, every label inside the frame and clear of the others; and
nothing that a log scale cannot show.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from bivlm.quantizers import QUANTIZERS
from bivlm.studies.compare import plot
from bivlm.studies.compare.plot import comparison_plot, style_of
from bivlm.studies.compare.result import FULL_PRECISION, Comparison, ComparisonRow
from bivlm.studies.labels import box_at, boxes_along, covered, place_labels

FULL = ComparisonRow(FULL_PRECISION, FULL_PRECISION, (), 9, 0.97, (0.95, 0.98), 0.0, 1.0, 16.0)
ROW = ComparisonRow("gptq-2", "gptq", ("language",), 9, 0.9, (0.88, 0.92), 0.01, 0.9, 2.25, None, 10)


def comparison(*rows):
    return Comparison((*rows, FULL), False, "m", 9, "exact_match", 0, "a machine", "", ())


@pytest.mark.parametrize(
    "rows",
    [
        [ROW, replace(ROW, preset="bivlm", method="bivlm", paper_bits=1.1)],
        [],
        [replace(ROW, accuracy=None, interval=None, kl=None, true_bits=None, failure="too narrow")],
        [replace(ROW, kl=0.0)],
        [replace(ROW, method="rtn+gptq")],
    ],
    ids=["two methods", "none", "all failed", "no divergence", "mixed recipe"],
)
def test_a_picture_is_made_of_whatever_was_found(rows, tmp_path):
    comparison_plot(comparison(*rows), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > picture.size[1] > 800


@pytest.mark.parametrize(("count", "panels"), [(plot.CROWDED, 2), (plot.CROWDED + 1, 1)])
def test_of_a_crowd_only_divergences_have_names(count, panels, tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(plot, "place_labels", lambda _, axes, marks: named.append(axes.get_title()))
    rows = [replace(ROW, preset=f"gptq-{number}", true_bits=1 + number / 10) for number in range(count)]
    comparison_plot(comparison(*rows), tmp_path / "a.png")
    assert named == ["Accuracy", "KL divergence from full precision"][-panels:]


def test_methods_look_different_and_always_the_same():
    methods = sorted(QUANTIZERS)
    styles = [style_of(method, methods) for method in methods]
    assert len(set(styles)) == len(methods)
    assert style_of("gptq", ["gptq"]) == style_of("gptq", methods)
    assert style_of("mixed+one", ["mixed+one"]) not in styles


def boxes_of(marks):
    """The labels' boxes after placing, and the frame."""
    figure = Figure(figsize=(6, 5), dpi=100)
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    for _, x, y, _ in marks:
        axes.plot(x, y, "o")
    axes.margins(0.1)
    figure.draw_without_rendering()
    place_labels(canvas, axes, marks)
    labels = [text.get_window_extent(canvas.get_renderer()).extents for text in axes.texts if text.get_text()]
    assert len(labels) == len(marks)
    return np.array(labels), axes.get_window_extent(canvas.get_renderer()).extents


def test_labels_of_a_crowd_stay_inside_and_clear():
    rng = np.random.default_rng(0)
    marks = [
        (f"method-{number}", float(x), float(y), "black")
        for number, (x, y) in enumerate(rng.uniform(0, 1, (18, 2)))
    ]
    boxes, frame = boxes_of(marks)
    assert (boxes[:, :2] >= frame[:2]).all()
    assert (boxes[:, 2:] <= frame[2:]).all()
    for number, box in enumerate(boxes):
        assert covered(box[None], np.delete(boxes, number, axis=0))[0] == 0, marks[number]


def test_marks_on_one_spot_get_labels_apart():
    boxes, _ = boxes_of([(f"m{number}", 0.5, 0.5, "black") for number in range(6)])
    for number, box in enumerate(boxes):
        assert covered(box[None], np.delete(boxes, number, axis=0))[0] == 0


CORNERS = st.tuples(*[st.integers(-9, 9)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@settings(deadline=None, max_examples=50)
@given(st.lists(CORNERS, min_size=1, max_size=4), st.lists(CORNERS, max_size=4))
def test_covered_counts_the_common_squares(boxes, others):
    def squares(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = [sum(len(squares(box) & squares(other)) for other in others) for box in boxes]
    assert (
        covered(np.array(boxes, dtype=float), np.array(others, dtype=float).reshape(-1, 4)).tolist()
        == expected
    )


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1)])
def test_a_label_stands_at_its_distance_on_its_side(direction):
    left, bottom, right, top = box_at(np.array([100.0, 50.0]), 7.0, direction, 30.0, 10.0)
    assert (right - left, top - bottom) == (30.0, 10.0)
    for axis, (low, high) in enumerate(((left - 100, right - 100), (bottom - 50, top - 50))):
        assert (low, high)[direction[axis] < 0] * direction[axis] == 7 * abs(direction[axis])
        if direction[axis] == 0:
            assert low == -high


def test_boxes_along_a_line_leave_no_gap():
    boxes = boxes_along(np.array([[0.0, 0.0], [90.0, 40.0]]), 4.0)
    assert boxes[0].tolist() == [-4, -4, 4, 4]
    assert boxes[-1].tolist() == [86, 36, 94, 44]
    assert (np.diff(boxes[:, 0]) <= 8).all()
    assert boxes_along(np.array([[3.0, 5.0]]), 1.0).tolist() == [[2, 4, 4, 6]]
