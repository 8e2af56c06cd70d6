"""Questions that name their image by a number: VQAv2 and TextVQA in their own files.

    {"question_id": 262148000, "image_id": 262148, "question": "Where is he looking?", "answers": […]}
    {"question_id": 34602, "image_id": "0054c91397f2fe05", "question": "what is the brand?", "answers": […]}

The image file is looked for next to the data file, under the names and in the folders in which these sets
are published.
"""

from __future__ import annotations

from collections.abc import Iterable

from bivlm.data.fields import Record, answers_of, kind_of, system_of, text_field
from bivlm.data.shapes.base import Row, Shape, has
from bivlm.data.shapes.plain import IMAGES
from bivlm.errors import InputError
from bivlm.types import Sample

FOLDERS = ("", "images/", "train_images/", "test_images/", "train_val_images/", "../images/")
COCO = ("train2014", "val2014", "test2015", "train2017", "val2017", "test2017")
SUBSET = "image_set"  # which of COCO an image belongs to, where the file says so


def _matches(record: Record) -> bool:
    return has(record, "question", "question_id") and has(record, "image_id") and not has(record, *IMAGES)


def _samples(row: Row) -> Iterable[Sample]:
    record, origin = row.record, row.origin
    value = record["image_id"]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{origin}: 'image_id' must be a number or a text, and is {kind_of(value)}")
    question = text_field(record, "question", origin)
    answers, system = answers_of(record, origin), system_of(record, origin)
    sample = row.sample([question], answers, system=system)
    if row.look.wanted:
        image = row.look.first_there(list(_names(value, record.get(SUBSET))), origin)
        sample = Sample(image, question, answers, origin, system, group=sample.group)
    yield sample


def _names(value: int | str, subset: object) -> Iterable[str]:
    """Where the image may be, the likeliest first."""
    if isinstance(value, str):
        yield from (f"{folder}{value}.jpg" for folder in FOLDERS)
        return
    subsets = [name for name in COCO if name == subset] or COCO
    for name in subsets:
        files = (f"COCO_{name}_{value:012d}.jpg", f"{value:012d}.jpg")
        folders = ("", "images/", f"{name}/", f"images/{name}/", f"../{name}/", "../images/")
        yield from (f"{folder}{file}" for file in files for folder in folders)


SHAPE = Shape(
    name="question and number of an image",
    fields=(("image_id",), ("question",)),
    more=("answers", "answer", "system"),
    example="VQAv2 (questions with their annotations), TextVQA",
    matches=_matches,
    samples=_samples,
)
