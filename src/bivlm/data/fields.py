"""The fields of a record, whatever file it is from: texts, answers, groups, and what is wrong with them in
words.

Answers may be texts, numbers (3 is "3", 2.5 is "2.5"), lists of these, or lists of {"answer": text}. True and
false are refused, because only the set's author knows whether they are "yes" and "no".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bivlm.errors import InputError, cut

Record = Mapping[str, Any]

# other names of a field in data sets: --columns gives it its own
SYNONYMS = {
    "question": ("query", "prompt", "instruction", "problem", "input"),
    "answer": (
        "label",
        "response",
        "output",
        "ground_truth",
        "gt_answer",
        "multiple_choice_answer",
        "target",
    ),
    "image": ("img", "image_path", "picture", "photo", "decoded_image", "page_image", "file", "filename"),
}
LARGEST_NUMBER = 10**15  # larger numbers are not exact in every JSON reader
ANSWERS = ("answers", "answer")  # the first that is not empty counts
# where a question's group is looked for, in this order
GROUPS = (
    *("group", "task", "subject", "category", "topic", "subfield", "answer_type"),
    *("question_type", "question_types", "source"),
)
LONGEST_GROUP = 60  # characters; a longer text is no name of a group


def text_field(record: Record, name: str, origin: str) -> str:
    """A required text field."""
    value = record.get(name)
    if value is None:
        raise InputError(f"{origin}: the field '{name}' is missing ({listed(record)})")
    return check_text(value, f"'{name}'", origin)


def check_text(value: object, name: str, origin: str) -> str:
    """The value, which must be a text with words in it. Raises InputError, naming both, if it is none, is
    empty, or holds half a character.
    """
    before = f"{origin}: " if origin else ""
    if not isinstance(value, str):
        raise InputError(f"{before}{name} must be a text, and is {kind_of(value)}")
    if not value.strip():
        raise InputError(f"{before}{name} is empty")
    _check_encodable(value, name, before)
    return value


def system_of(record: Record, origin: str) -> str:
    """The system prompt of a record; "" if it has none."""
    return "" if record.get("system") is None else text_field(record, "system", origin)


def group_of(record: Record) -> str:
    """What a question belongs to: the first of GROUPS that holds a short text, or a list that begins with
    one; "" if there is none.
    """
    for name in GROUPS:
        value = record.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= LONGEST_GROUP:
            return value.strip()
    return ""


def answers_of(record: Record, origin: str, names: Sequence[str] = ANSWERS) -> tuple[str, ...]:
    """All answers of a record, in their order; none if the fields are missing or empty."""
    for name in names:
        entries = _entries(record.get(name))
        if entries:
            break
    else:
        return ()
    answers = tuple(answer_text(entry, name, origin) for entry in entries)
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


def answer_text(value: Any, name: str, origin: str) -> str:
    """An answer as a text. Raises InputError for anything but a text and a number of ordinary size."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or abs(value) >= LARGEST_NUMBER:
            raise InputError(f"{origin}: '{name}' holds {kind_of(value)}; write it as a text")
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        advice = '; write "yes" or "no"' if isinstance(value, bool) else ""
        raise InputError(
            f"{origin}: '{name}' must be a text, a number, or a list of these or of {{\"answer\": text}}, and"
            f" holds {kind_of(value)}{advice}"
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


def listed(record: Record) -> str:
    """The fields of a record in words."""
    return f"it has {cut(', '.join(map(str, record)), 200)}" if record else "it is empty"


def kind_of(value: object) -> str:
    """The type of a JSON value in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        large = math.isfinite(value) and abs(value) >= LARGEST_NUMBER
        return f"a number over {LARGEST_NUMBER}" if large else f"the number {value}"
    return {list: "a list", dict: "an object", type(None): "null"}.get(
        type(value), f"a {type(value).__name__}"
    )
