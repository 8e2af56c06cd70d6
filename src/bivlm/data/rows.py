"""The contents of one record of a data set, from any kind of file: a question, and all answers that people
gave.

    {"image": "cat.png", "question": "What is on the mat?", "answer": "a cat"}
    {"image": "cat.png", "question": "What is on the mat?", "answers": ["cat", "a cat", "cat", …]}
    {"image": "cat.png", "question": "What is on the mat?", "answers": [{"answer": "cat"}, …]}

If a record has both, `answers` is used. Other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bivlm.errors import InputError
from bivlm.types import Sample


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
    if not isinstance(value, str):
        raise InputError(f"{origin}: '{name}' must be a text, and is {_kind(value)}")
    if not value.strip():
        raise InputError(f"{origin}: '{name}' is empty")
    _check_encodable(value, name, origin)
    return value


def _answers(record: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    name = "answers" if record.get("answers") is not None else "answer"
    value = record.get(name)
    if isinstance(value, Mapping):  # a sequence of records as `datasets` keeps it: one list for each field
        value = value.get("answer", value)
    if value is None or value == []:
        return ()
    entries = value if isinstance(value, list) else [value]
    answers = tuple(entry.get("answer", entry) if isinstance(entry, Mapping) else entry for entry in entries)
    for answer in answers:
        if not isinstance(answer, str):
            raise InputError(
                f"{origin}: '{name}' must be a text, a list of texts or a list of {{\"answer\": text}}, and"
                f" holds {_kind(answer)}"
            )
        _check_encodable(answer, name, origin)
    if not any(answer.strip() for answer in answers):
        raise InputError(f"{origin}: '{name}' is empty")
    return answers


def _check_encodable(text: str, name: str, origin: str) -> None:
    """Refuses half of a surrogate pair: JSON can contain it, but it is no character, and tokenizers fail on
    it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{origin}: '{name}' holds half a character (\\u{ord(text[error.start]):04x}); write the text in"
            " UTF-8"
        ) from error


def _fields(record: Mapping[str, Any]) -> str:
    return f"it has {', '.join(record)}" if record else "it is empty"


def _kind(value: object) -> str:
    """The type of a JSON value in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}" if len(str(value)) < 20 else "a number"
    return {list: "a list", dict: "an object", type(None): "null"}.get(
        type(value), f"a {type(value).__name__}"
    )
