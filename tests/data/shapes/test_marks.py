"""Records of an image with boxes or points."""

import pytest
from PIL import Image

from bivlm.data.digests import Digests
from bivlm.data.places import Look
from bivlm.data.shapes import find_shape, marks
from bivlm.data.shapes.base import Row
from bivlm.errors import InputError
from bivlm.types import Marks


def read(record, folder):
    assert find_shape(record, "a:1") is marks.SHAPE
    (sample,) = marks.SHAPE.samples(Row(record, "a:1", Look(folder)))
    return sample


def test_boxes_with_true_masks(tmp_path):
    record = {"image": "a.png", "boxes": [[1, 2, 3.5, 4]], "masks": ["m.png"]}
    sample = read(record, tmp_path)
    assert sample.image == tmp_path / "a.png"
    assert sample.marks == Marks(boxes=((1.0, 2.0, 3.5, 4.0),), masks=(tmp_path / "m.png",))
    assert read({**record, "masks": "m.png"}, tmp_path).marks == sample.marks


def test_points_of_one_object_each_or_in_lists(tmp_path):
    alone = read({"image": "a.png", "points": [[1, 2], [3, 4]]}, tmp_path).marks
    assert alone == Marks(points=(((1.0, 2.0),), ((3.0, 4.0),)), labels=((1,), (1,)))
    together = {"image": "a.png", "points": [[[1, 2], [3, 4]]], "labels": [[1, 0]]}
    assert read(together, tmp_path).marks == Marks(points=(((1.0, 2.0), (3.0, 4.0)),), labels=((1, 0),))


def test_a_question_with_boxes_stays_a_question():
    record = {"image": "a.png", "question": "where?", "answer": "there", "boxes": [[1, 2, 3, 4]]}
    assert find_shape(record, "a:1") is not marks.SHAPE


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"boxes": [[1, 2, 3, 4]], "points": [[1, 2]]}, "by one of them"),
        ({"boxes": []}, "'boxes' must be a list .* an empty list"),
        ({"boxes": 3}, "'boxes' must be a list"),
        ({"boxes": [[1, 2, 3]]}, "must be 4 numbers"),
        ({"boxes": [[1, 2, "3", 4]]}, "must be 4 numbers"),
        ({"boxes": [[1, 2, float("nan"), 4]]}, "must be 4 numbers"),
        ({"boxes": [[1, 2, 10**400, 4]]}, "must be 4 numbers"),
        ({"boxes": [[3, 2, 3, 4]]}, r"the box \[3.0, 2.0, 3.0, 4.0\] is empty"),
        ({"boxes": [[1, 2, 3, 4]], "masks": ["a.png", "b.png"]}, "2 masks of 1 objects"),
        ({"points": [[1, 2, 3]]}, "must be 2 numbers"),
        ({"points": [[[1, 2], [3, 4]], [[1, 2]]]}, "different numbers of points"),
        ({"points": [[1, 2]], "labels": [2]}, "'labels' must hold"),
        ({"points": [[1, 2]], "labels": [1, 1]}, "'labels' must hold"),
        ({"points": [[1, 2]], "labels": [True]}, "'labels' must hold"),
    ],
)
def test_wrong_marks_are_named(fields, told, tmp_path):
    with pytest.raises(InputError, match=f"a:1: .*{told}"):
        read({"image": "a.png", **fields}, tmp_path)


def test_marks_are_part_of_what_a_sample_is(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    one, other = (read({"image": "a.png", "boxes": [box]}, tmp_path) for box in ([1, 2, 3, 4], [1, 2, 3, 5]))
    assert Digests().of_sample(one) != Digests().of_sample(other)
    assert Digests().of_question(one) == Digests().of_question(other)
