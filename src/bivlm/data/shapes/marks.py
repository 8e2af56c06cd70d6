"""An image and what a mask is asked for in it: boxes or points, with the true masks where they are known.

    {"image": "a.jpg", "boxes": [[10, 20, 60, 90]], "masks": ["a-0.png"]}
    {"image": "a.jpg", "points": [[[30, 40], [5, 5]]], "labels": [[1, 0]]}

Coordinates are pixels of the image: x to the right, y down. `points` is a list of points for each object, or
points alone, each of an object of its own. A label of 1 is a point inside the object (without labels all
are), 0 one outside. `masks` are image files, one for each object, in which what is not black is the object.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from bivlm.data.fields import Record, kind_of
from bivlm.data.shapes.base import Row, Shape, has
from bivlm.data.shapes.captions import OTHERS
from bivlm.data.shapes.plain import IMAGES, images_of
from bivlm.errors import InputError
from bivlm.types import Marks, Sample

MARKS = ("boxes", "points")
PROMPT = "Draw the mask of every object that is marked."  # no model that draws masks reads it
LARGEST = 1 << 24  # of a coordinate, in pixels


def _marked(record: Record) -> bool:
    return has(record, *IMAGES) and has(record, *MARKS) and not any(name in record for name in OTHERS)


def _samples(row: Row) -> Iterable[Sample]:
    yield replace(row.sample([*images_of(row), PROMPT]), marks=_marks(row))


def _marks(row: Row) -> Marks:
    record, origin = row.record, row.origin
    if has(record, "boxes") and has(record, "points"):
        raise InputError(f"{origin}: 'boxes' and 'points' are given; a mask is asked for by one of them")
    boxes, points, labels = (), (), ()
    if has(record, "boxes"):
        boxes = tuple(_box(one, origin) for one in _list(record["boxes"], "'boxes'", origin))
    else:
        points = tuple(_points(one, origin) for one in _list(record["points"], "'points'", origin))
        labels = _labels(record.get("labels"), points, origin)
    objects = len(boxes) or len(points)
    masks = record.get("masks")
    files = [] if masks is None else masks if isinstance(masks, list) else [masks]
    if files and len(files) != objects:
        raise InputError(
            f"{origin}: there are {len(files)} masks of {objects} objects; give one of each, or none"
        )
    return Marks(boxes, points, labels, tuple(row.look.image(one, "'masks'", origin) for one in files))


def _box(value: Any, origin: str) -> tuple[float, float, float, float]:
    numbers = _numbers(value, 4, "a box of 'boxes'", origin)
    x0, y0, x1, y1 = numbers
    if x1 <= x0 or y1 <= y0:
        raise InputError(
            f"{origin}: the box {list(numbers)} is empty; give [x0, y0, x1, y1] with x0 < x1 and y0 < y1"
        )
    return x0, y0, x1, y1


def _points(value: Any, origin: str) -> tuple[tuple[float, float], ...]:
    """The points of one object."""
    entries = _list(value, "an entry of 'points'", origin)
    alone = not isinstance(entries[0], list)
    found = (_numbers(one, 2, "a point of 'points'", origin) for one in ([entries] if alone else entries))
    return tuple((x, y) for x, y in found)


def _labels(
    value: Any, points: tuple[tuple[tuple[float, float], ...], ...], origin: str
) -> tuple[tuple[int, ...], ...]:
    if len({len(own) for own in points}) > 1:
        raise InputError(f"{origin}: the objects of 'points' have different numbers of points; give the same")
    if value is None:
        return tuple((1,) * len(own) for own in points)
    given = [one if isinstance(one, list) else [one] for one in _list(value, "'labels'", origin)]
    fit = [len(one) for one in given] == [len(own) for own in points]
    if not fit or any(type(label) is not int or label not in (0, 1) for one in given for label in one):
        raise InputError(f"{origin}: 'labels' must hold a 1 (inside) or a 0 (outside) for every point")
    return tuple(map(tuple, given))


def _list(value: Any, name: str, origin: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind_of(value)
        raise InputError(f"{origin}: {name} must be a list of numbers or of lists of them, and is {what}")
    return value


def _numbers(value: Any, count: int, name: str, origin: str) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else [value]
    good = all(
        isinstance(one, int | float) and not isinstance(one, bool) and -LARGEST < one < LARGEST
        for one in numbers
    )
    if len(numbers) != count or not good:
        raise InputError(f"{origin}: {name} must be {count} numbers")
    return tuple(float(one) for one in numbers)


SHAPE = Shape(
    name="image with boxes or points",
    fields=(IMAGES, MARKS),
    more=("labels", "masks"),
    example="what a mask is asked for, for models that draw masks",
    matches=_marked,
    samples=_samples,
)
