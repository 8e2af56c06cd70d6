"""Images with captions, and images alone: a caption is asked for.

The words are those in which lmms-eval asks for the captions of COCO and Flickr30k.
"""

from __future__ import annotations

from collections.abc import Iterable

from bivlm.data.fields import SYNONYMS, Record, answers_of
from bivlm.data.shapes.base import Row, Shape, has
from bivlm.data.shapes.plain import IMAGES, images_of
from bivlm.types import Sample

PROMPT = "Provide a one-sentence caption for the provided image."
CAPTIONS = ("captions", "caption", "sentences", "text")


# fields that say that a caption is not what is wanted
OTHERS = ("question", "answer", "answers", *SYNONYMS["question"], *SYNONYMS["answer"][1:])


def _pictured(record: Record) -> bool:
    return has(record, *IMAGES) and not any(name in record for name in OTHERS)


def _captioned(row: Row) -> Iterable[Sample]:
    yield row.sample([*images_of(row), PROMPT], answers_of(row.record, row.origin, CAPTIONS))


def _alone(row: Row) -> Iterable[Sample]:
    yield row.sample([*images_of(row), PROMPT])


CAPTION = Shape(
    name="image and caption",
    fields=(IMAGES, CAPTIONS),
    more=(),
    example="COCO and Flickr30k captions; image and text of a captioned folder",
    matches=lambda record: _pictured(record) and has(record, *CAPTIONS),
    samples=_captioned,
)
IMAGE = Shape(
    name="image alone",
    fields=(IMAGES,),
    more=(),
    example="a folder of photos, to calibrate on",
    matches=_pictured,
    samples=_alone,
)
