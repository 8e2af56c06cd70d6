"""The choices of a question, read from its text: the lines that begin with A, B, C, … in this order.

(A) a cat        A. a cat        A) a cat        A: a cat
"""

from __future__ import annotations

import re
from string import ascii_uppercase

LINE = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]*(.*)$", flags=re.MULTILINE)
UNLISTED = 5  # letters that are taken for choices if the question lists none


def choices_in(question: str) -> dict[str, str]:
    """The texts of the choices by their letters; empty if the question lists none."""
    found: dict[str, str] = {}
    for line in LINE.finditer(question):
        if line[1] == ascii_uppercase[len(found)]:
            found[line[1]] = line[2].strip()
    return found


def letters_of(question: str, answer: str) -> tuple[str, ...]:
    """The letters that an answer may name: those of the listed choices; if there are none, A to E, and as far
    as the right answer.
    """
    listed = tuple(choices_in(question))
    return listed or tuple(ascii_uppercase[: max(UNLISTED, ascii_uppercase.find(answer) + 1)])


def is_letter(reference: str) -> bool:
    """Whether a reference is the letter of a choice."""
    return len(reference) == 1 and reference in ascii_uppercase
