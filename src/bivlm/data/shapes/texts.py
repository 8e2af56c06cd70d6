"""Records without an image: a question, or a text alone."""

from __future__ import annotations

from collections.abc import Iterable

from bivlm.data.fields import SYNONYMS, answers_of, system_of, text_field
from bivlm.data.shapes.base import Row, Shape, has
from bivlm.data.shapes.plain import VIDEOS
from bivlm.types import Sample

PICTURES = ("image_id", *SYNONYMS["image"], *VIDEOS)  # with one of these a record is no text alone


def _question(row: Row) -> Iterable[Sample]:
    system = system_of(row.record, row.origin)
    question = text_field(row.record, "question", row.origin)
    yield row.sample([question], answers_of(row.record, row.origin), system=system)


def _text(row: Row) -> Iterable[Sample]:
    yield row.sample([text_field(row.record, "text", row.origin)])


QUESTION = Shape(
    name="question without an image",
    fields=(("question",),),
    more=("answers", "answer", "system"),
    example="questions for language models",
    matches=lambda record: isinstance(record.get("question"), str) and not has(record, *PICTURES),
    samples=_question,
)
TEXT = Shape(
    name="text",
    fields=(("text",),),
    more=(),
    example="texts, to calibrate language models",
    matches=lambda record: isinstance(record.get("text"), str) and not has(record, "question", *PICTURES),
    samples=_text,
)
