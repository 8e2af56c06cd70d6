"""Multiple choice: the options are listed with letters, and the letter is asked for.

    {"image": …, "question": "Which is it?", "choices": ["cat", "dog"], "answer": 1}
    {"image": …, "question": "Which is it?", "A": "cat", "B": "dog", "answer": "B"}

The right answer is an index from 0, a letter, or the option's text. Accepted are the letter and the option's
text. The question is put as by lmms-eval (scienceqa, mmbench), with a `hint` as its context.
"""

from __future__ import annotations

import ast
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bivlm.data.fields import Record, answer_text, kind_of, system_of, text_field
from bivlm.data.shapes.base import Row, Shape, has
from bivlm.data.shapes.plain import FPS, VISUALS, visuals_of
from bivlm.errors import InputError, cut
from bivlm.types import Sample

LISTS = ("choices", "options")
LETTERS = string.ascii_uppercase
ASK_LETTER = "Answer with the option's letter from the given choices directly."
LONGEST_LIST = 100_000  # characters of a list in a text
UNKNOWN = ("", "?", "-", "-1")  # what stands for the answer where it is kept secret


def _matches(record: Record) -> bool:
    stored = [record.get(name) for name in LISTS]
    listed = any(isinstance(one, list) or (isinstance(one, str) and one[:1] == "[") for one in stored)
    return "question" in record and (listed or (has(record, "A") and has(record, "B")))


def _samples(row: Row) -> Iterable[Sample]:
    record, origin = row.record, row.origin
    visuals = visuals_of(row) if any(name in record for name in VISUALS) else []
    options = options_of(record, origin)
    hint = f"Context: {text_field(record, 'hint', origin)}\n" if record.get("hint") else ""
    question = f"{hint}{text_field(record, 'question', origin)}\n{lettered(options)}\n{ASK_LETTER}"
    yield row.sample(
        [*visuals, question], right_option(record, options, origin), system=system_of(record, origin)
    )


def options_of(record: Record, origin: str) -> list[str]:
    """The texts of the options. Raises InputError for fewer than two, or more than there are letters."""
    name = next((name for name in LISTS if has(record, name)), None)
    stored = _columns(record) if name is None else list_in_text(record[name], name, origin)
    options = [answer_text(one, name or "A, B, …", origin) for one in stored]
    if not 2 <= len(options) <= len(LETTERS):
        raise InputError(f"{origin}: {len(options)} options are there; give 2 to {len(LETTERS)}")
    return options


def list_in_text(value: object, name: str, origin: str) -> list:
    """A list, or the list that a text writes. Raises InputError if it is neither."""
    if isinstance(value, list):
        return value
    if isinstance(value, str) and len(value) <= LONGEST_LIST:
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found = None
        if isinstance(found, list):
            return found
    raise InputError(f"{origin}: '{name}' must be a list, or the text of one: \"['a', 'b']\"")


def _columns(record: Record) -> list[Any]:
    """The columns A, B, … up to the first that is missing or empty."""
    found: list[Any] = []
    for letter in LETTERS:
        if record.get(letter) is None or record[letter] == "":
            break
        found.append(record[letter])
    return found


def lettered(options: Sequence[str]) -> str:
    """The options, one a line: "A. cat"."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def right_option(record: Record, options: Sequence[str], origin: str) -> tuple[str, ...]:
    """The letter of the right option and its text; nothing if the answer is missing or kept secret."""
    value = record.get("answer")
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if value is None or str(value).strip() in UNKNOWN:
        return ()
    place = _place(value, options, origin)
    letters = LETTERS[: len(options)]
    text = options[place].strip()
    return (letters[place],) if text.upper() in letters or not text else (letters[place], text)


def _place(value: Any, options: Sequence[str], origin: str) -> int:
    """Which option an answer means, from 0."""
    if isinstance(value, bool | Mapping | list):
        raise InputError(
            f"{origin}: 'answer' must be the right option's index from 0, its letter or its text, and is"
            f" {kind_of(value)}"
        )
    text = answer_text(value, "answer", origin).strip()
    if isinstance(value, str):
        letter = text.strip("().: ").upper()
        if len(letter) == 1 and letter in LETTERS[: len(options)]:
            return LETTERS.index(letter)
        same = [place for place, option in enumerate(options) if option.strip().lower() == text.lower()]
        if same:
            return same[0]
    if text.isdecimal() and int(text) < len(options):
        return int(text)
    raise InputError(
        f"{origin}: the answer {cut(text)!r} is none of the {len(options)} options, neither as an index from"
        " 0 nor as a letter nor as a text"
    )


SHAPE = Shape(
    name="multiple choice",
    fields=(("question",), (*LISTS, "A")),
    more=("answer", *VISUALS, FPS, "hint", "system"),
    example="ScienceQA, MMBench, AI2D",
    matches=_matches,
    samples=_samples,
)
