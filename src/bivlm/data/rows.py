"""The contents of one record of a data set, from any kind of file: a question, and all answers that people
gave.

    {"image": "cat.png", "question": "What is on the mat?", "answer": "a cat"}
    {"image": "cat.png", "question": "What is on the mat?", "answers": ["cat", "a cat", "cat", …]}
    {"image": "cat.png", "question": "What is on the mat?", "answers": [{"answer": "cat"}, …]}

If a record has both, `answers` is used, unless it is empty. An answer may be a number: 3 is "3". True and
false are refused, because only the set's author knows whether they are "yes" and "no". Other fields are
ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bivlm.errors import InputError, cut
from bivlm.types import Sample

LARGEST_NUMBER = 10**15  # larger numbers are not exact in every JSON reader
# fields of other kinds of data sets, and what to do with one
OTHER_SHAPES = {
    "conversations": (
        ": a LLaVA conversation, which is not read; write each turn as one record with image, question and"
        " answer"
    ),
    "messages": (
        ": a chat with messages, which is not read; write each turn as one record with image, question and"
        " answer"
    ),
    "images": ": a record with several images, which is not read; name one as image",
}


def to_sample(
    record: Mapping[str, Any], image: Path | Image.Image | None, origin: str, *, answers_required: bool
) -> Sample:
    """The sample of a record. Raises InputError, naming `origin`, for a missing field, a wrong type or an
    empty text.
    """
    answers = _answers(record, origin)
    if answers_required and not answers:
        raise InputError(
            f"{origin}: neither 'answer' nor 'answers' is there; accuracy needs one of them"
            f" ({_fields(record)})"
        )
    return Sample(
        image=image, question=text_field(record, "question", origin), answers=answers, origin=origin
    )


def text_field(record: Mapping[str, Any], name: str, origin: str) -> str:
    """A required text field."""
    value = record.get(name)
    if value is None:
        raise InputError(f"{origin}: the field '{name}' is missing ({_fields(record)})")
    return check_text(value, f"'{name}'", origin)


def check_text(value: object, name: str, origin: str) -> str:
    """The value, which must be a text with words in it. Raises InputError, naming both, if it is none, is
    empty, or holds half a character.
    """
    before = f"{origin}: " if origin else ""
    if not isinstance(value, str):
        raise InputError(f"{before}{name} must be a text, and is {_kind(value)}")
    if not value.strip():
        raise InputError(f"{before}{name} is empty")
    _check_encodable(value, name, before)
    return value


def _answers(record: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    for name in ("answers", "answer"):
        entries = _entries(record.get(name))
        if entries:
            break
    else:
        return ()
    answers = tuple(_answer(entry, name, origin) for entry in entries)
    if not any(answer.strip() for answer in answers):
        raise InputError(f"{origin}: '{name}' is empty")
    return answers


def _entries(value: Any) -> list[Any]:
    """What a field of answers holds, one by one; none if it is missing or empty."""
    if isinstance(value, Mapping):  # a sequence of records as `datasets` keeps it: one list for each field
        value = value.get("answer", value)
    if value is None:
        return []
    entries = value if isinstance(value, list) else [value]
    return [entry.get("answer", entry) if isinstance(entry, Mapping) else entry for entry in entries]


def _answer(value: Any, name: str, origin: str) -> str:
    """An answer as a text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or abs(value) >= LARGEST_NUMBER:
            raise InputError(f"{origin}: '{name}' holds {_kind(value)}; write it as a text")
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        advice = '; write "yes" or "no"' if isinstance(value, bool) else ""
        raise InputError(
            f"{origin}: '{name}' must be a text, a number, or a list of these or of {{\"answer\": text}}, and"
            f" holds {_kind(value)}{advice}"
        )
    _check_encodable(value, f"'{name}'", f"{origin}: ")
    return value


def _check_encodable(text: str, name: str, before: str) -> None:
    """Refuses half of a surrogate pair: JSON can contain it, but it is no character, and tokenizers fail on
    it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{before}{name} holds half a character (\\u{ord(text[error.start]):04x}); write the text in"
            " UTF-8"
        ) from error


def _fields(record: Mapping[str, Any]) -> str:
    """The fields of a record in words, with advice if it has the shape of another kind of data set."""
    if not record:
        return "it is empty"
    other = next((advice for field, advice in OTHER_SHAPES.items() if record.get(field) is not None), "")
    return f"it has {cut(', '.join(map(str, record)), 200)}{other}"


def _kind(value: object) -> str:
    """The type of a JSON value in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        large = math.isfinite(value) and abs(value) >= LARGEST_NUMBER
        return f"a number over {LARGEST_NUMBER}" if large else f"the number {value}"
    return {list: "a list", dict: "an object", type(None): "null"}.get(
        type(value), f"a {type(value).__name__}"
    )
