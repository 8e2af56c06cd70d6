"""MMMU: `options` as the text of a list, up to seven images that the question and the options name.

    {"question": "Which of <image 1> …?", "options": "['<image 2>', 'none']", "answer": "A", "image_1": …}

Each image stands where it is named first; images that nobody names come first of all. The question is put as
by lmms-eval (mmmu_val, in its interleaved form); without options it is an open question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bivlm.data.fields import Record, answers_of, text_field
from bivlm.data.shapes.base import Part, Pictured, Row, Shape, has
from bivlm.data.shapes.choices import ASK_LETTER, UNKNOWN, lettered, list_in_text, options_of, right_option
from bivlm.errors import InputError
from bivlm.types import Sample

ASK_WORDS = "Answer the question using a single word or phrase."
PLACE = re.compile(r"<image (\d+)>")
NAMES = tuple(f"image_{number}" for number in range(1, 8))
IMAGE = NAMES[0]


def _matches(record: Record) -> bool:
    return has(record, "question") and has(record, "options") and IMAGE in record


def _samples(row: Row) -> Iterable[Sample]:
    record, origin = row.record, row.origin
    question = text_field(record, "question", origin)
    options = list_in_text(record["options"], "options", origin)
    if options:
        texts = options_of({"options": options}, origin)
        asked = f"{question}\n{lettered(texts)}\n\n{ASK_LETTER}"
        answers = right_option(record, texts, origin)
    else:
        asked = f"{question}\n\n{ASK_WORDS}"
        stored = record.get("answer")
        secret = isinstance(stored, str) and stored.strip() in UNKNOWN
        stored = list_in_text(stored, "answer", origin) if str(stored).startswith("[") else stored
        answers = () if secret else answers_of({"answer": stored}, origin)
    yield row.sample(_in_place(row, asked), answers)


def _in_place(row: Row, text: str) -> list[Part]:
    """The text in parts, with each image where it is named first."""
    parts: list[Part] = []
    pieces, named = PLACE.split(text), set()
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            parts.append(piece)
            continue
        name = f"image_{int(piece)}" if len(piece) < 3 else ""
        if name in named:
            parts.append(f"<image {piece}>")
        elif has(row.record, name):
            parts.append(Pictured(row.record[name], f"'{name}'"))
            named.add(name)
        else:
            raise InputError(f"{row.origin}: <image {piece[:9]}> is named, and there is no such image")
    others = [name for name in NAMES if has(row.record, name) and name not in named]
    return [*(Pictured(row.record[name], f"'{name}'") for name in others), *parts]


SHAPE = Shape(
    name="MMMU",
    fields=(("question",), ("options",), (IMAGE,)),
    more=("answer", *NAMES[1:]),
    example="MMMU, MMMU-Pro",
    matches=_matches,
    samples=_samples,
)
