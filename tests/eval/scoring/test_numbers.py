"""Boxes and counts: by hand, and the overlap by counting points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.eval.scoring import SCORERS
from bivlm.eval.scoring.counting import count_in
from bivlm.eval.scoring.iou import box_in, iou
from scored import record, sample

BOX = st.tuples(*[st.integers(0, 12)] * 4)


@given(BOX, BOX)
@settings(deadline=None, max_examples=150)
def test_the_overlap_is_that_of_the_points_inside(first: tuple[int, ...], second: tuple[int, ...]):
    inside = []
    for x1, y1, x2, y2 in (first, second):
        plane = np.zeros((12, 12), dtype=bool)
        plane[y1:y2, x1:x2] = True
        inside.append(plane)
    union = (inside[0] | inside[1]).sum()
    expected = (inside[0] & inside[1]).sum() / union if union else 0.0
    assert iou(first, second) == pytest.approx(expected)
    assert iou(first, second) == iou(second, first)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[12, 30, 50.5, 64]", (12, 30, 50.5, 64)), ("<box>(12,30),(50,64)</box>", (12, 30, 50, 64)),
        ("It is at 0.1, .2, 0.3 and 1.", (0.1, 0.2, 0.3, 1)),
        ("[-5, 0, 5, 5] and [1, 2, 3, 4]", (-5, 0, 5, 5)),
        ("[1, 2, 3]", None), ("", None), ("none", None),
    ],
)  # fmt: skip
def test_a_box_is_the_first_four_numbers(text: str, box: tuple[float, ...] | None):
    assert box_in(text) == box


def test_half_an_overlap_is_right():
    scorer = SCORERS["iou"]
    assert scorer.score("[0, 0, 10, 5]", sample("[0, 0, 10, 10]")) == 1.0
    assert scorer.score("[0, 0, 10, 4.9]", sample("[0, 0, 10, 10]")) == 0.0
    assert scorer.score("[0, 0, 1, 1]", sample("[5, 5, 6, 6]", "[0, 0, 1, 1]")) == 1.0
    assert scorer.score("[10, 10, 0, 0]", sample("[0, 0, 10, 10]")) == 0.0, "corners in the wrong order"
    records = [
        record(scorer, said, "[0, 0, 10, 10]", group="detection")
        for said in ("[0, 0, 10, 5]", "[0, 0, 10, 4]", "no")
    ]
    assert scorer.aggregate(records) == {"mean IoU": pytest.approx(0.3), "detection": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3", 3), ("There are 3 cars and 2 dogs.", 3), ("Three", 3), ("none", 0), ("ten cats", 10),
        ("1,200", 1200),
        ("1,200.5", 1200.5), ("-2", -2), ("2.0", 2), ("", None), ("many", None), ("someone", None),
        ("eleven", None),
        ("12,5", 12), ("A: 4", 4),
    ],
)  # fmt: skip
def test_a_count_is_the_first_number(text: str, count: float | None):
    assert count_in(text) == count


def test_counting_errors_are_of_the_answers_that_count():
    scorer = SCORERS["counting"]
    records = [record(scorer, said, "3", group="g") for said in ("three", "5", "2", "many")]
    assert [found.score for found in records] == [1, 0, 0, 0]
    assert scorer.aggregate(records) == {
        "mean absolute error": pytest.approx(1.0),
        "root mean squared error": pytest.approx(math.sqrt(5 / 3)),
        "no number": pytest.approx(0.25),
        "g": 0.25,
    }
    assert scorer.aggregate([record(scorer, "many", "3")]) == {"no number": 1.0}
