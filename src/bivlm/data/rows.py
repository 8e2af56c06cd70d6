"""The contents of one record of a data set, from any kind of file: images, a question, and all answers that
people gave.

    {"image": "cat.png", "question": "What is on the mat?", "answer": "a cat"}
    {"image": "cat.png", "question": "What is on the mat?", "answers": ["cat", "a cat", "cat", …]}
    {"image": "cat.png", "question": "What is on the mat?", "answers": [{"answer": "cat"}, …]}
    {"images": ["cat.png", "dog.png"], "question": "Which is larger?"}
    {"question": [{"type": "text", "text": "Is this"}, {"type": "image", "image": "cat.png"}, …]}
    {"image": null, "question": "What is a mat?", "system": "Answer in one word."}

Several images come before the question, unless the question is a list of its parts. If a record has both,
`answers` is used, unless it is empty. An answer may be a number: 3 is "3". True and false are refused,
because only the set's author knows whether they are "yes" and "no". Other fields are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bivlm.errors import InputError, cut
from bivlm.types import Picture, Sample

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
}
Find = Callable[[str], Picture]  # the image that a name in a record means


def to_sample(
    record: Mapping[str, Any],
    image: Picture | Sequence[Picture] | None,
    origin: str,
    *,
    answers_required: bool,
    find: Find | None = None,
) -> Sample:
    """The sample of a record. `image` is what was read from it elsewhere; or `find` says which image a name
    in the record means. With neither, images are left out, for a language model.

    Raises InputError, naming `origin`, for a missing field, a wrong type or an empty text.
    """
    in_parts = image is None and isinstance(record.get("question"), list)
    parts = _parts(record, find, origin) if in_parts else []
    if find is not None and not in_parts:
        image = _images(record, find, origin)
    answers = _answers(record, origin)
    if answers_required and not answers:
        raise InputError(
            f"{origin}: neither 'answer' nor 'answers' is there; accuracy needs one of them"
            f" ({_fields(record)})"
        )
    system = "" if record.get("system") is None else text_field(record, "system", origin)
    if in_parts:
        return Sample.of(parts, answers, origin, system)
    return Sample(image, text_field(record, "question", origin), answers, origin, system)


def _images(record: Mapping[str, Any], find: Find, origin: str) -> Picture | tuple[Picture, ...] | None:
    """The image or images that a record names next to its question."""
    several = record.get("images")
    if several is not None:
        if any(record.get(name) is not None for name in ("image", "file_name")):
            raise InputError(f"{origin}: both 'image' and 'images' are there; give one of them")
        if not isinstance(several, list):
            raise InputError(f"{origin}: 'images' must be a list of texts, and is {_kind(several)}")
        return tuple(find(check_text(name, "an entry of 'images'", origin)) for name in several)
    if "image" in record and record["image"] is None and "file_name" not in record:
        return None
    named_by = "image" if record.get("image") is not None or "file_name" not in record else "file_name"
    return find(text_field(record, named_by, origin))


def _parts(record: Mapping[str, Any], find: Find | None, origin: str) -> list[str | Picture]:
    """The texts and images of a question that is a list of its parts; texts alone if `find` is None."""
    other = next((name for name in ("image", "images", "file_name") if record.get(name) is not None), None)
    if other is not None:
        raise InputError(
            f"{origin}: 'question' is a list of parts, and '{other}' is there too; name every image in the"
            " list"
        )
    parts: list[str | Picture] = []
    for entry in record["question"]:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if kind not in ("text", "image"):
            raise InputError(
                f"{origin}: each part of 'question' must be"
                ' {"type": "text", "text": …} or {"type": "image", "image": …}, and one is'
                f" {_kind(entry) if kind is None else f'of type {cut(str(kind))}'}"
            )
        content = entry.get(kind)
        if kind == "text":
            parts.append(check_text(content, "a text in 'question'", origin))
        elif find is not None:
            parts.append(find(check_text(content, "an image in 'question'", origin)))
    if not any(isinstance(part, str) for part in parts):
        raise InputError(f"{origin}: 'question' is a list without a text; say what is asked")
    return parts


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
