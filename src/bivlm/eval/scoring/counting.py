"""Counting: the number that an answer gives, and how far it is from the right one.

LENS (Yao et al., 2025) and TallyQA (Acharya et al., 2019) ask for numbers: accuracy, and the error of what
was counted (the mean absolute one, and its root mean square as in TallyQA). The number of an answer is the
first in it, in digits or in words up to ten: "There are 3 cars.", "three", "1,200". An answer without a
number is wrong, and counts in no error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from bivlm.eval.records import Record
from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.normalised import NUMBERS
from bivlm.types import Sample

NUMBER = re.compile(
    rf"-?\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|-?\d+(?:\.\d+)?|\b(?:{'|'.join(NUMBERS)})\b", flags=re.IGNORECASE
)


def count_in(text: str) -> float | None:
    """The first number of a text, or None."""
    found = NUMBER.search(text)
    return None if found is None else float(NUMBERS.get(found[0].lower(), found[0].replace(",", "")))


class Counting(Scorer):
    """1 for the right number."""

    name = "counting"
    needs = "a number"

    def score(self, answer: str, sample: Sample) -> float:
        return float(count_in(answer) == count_in(sample.answers[0]))

    def usable(self, sample: Sample) -> bool:
        return bool(sample.answers) and count_in(sample.answers[0]) is not None

    def aggregate(self, records: Sequence[Record]) -> dict[str, float]:
        """The errors of the answers that are numbers, the share of the others, and the mean score of every
        group.
        """
        pairs = [(count_in(record.answer), count_in(record.references[0])) for record in records]
        errors = [given - right for given, right in pairs if given is not None and right is not None]
        measured = {
            "mean absolute error": sum(map(abs, errors)) / len(errors),
            "root mean squared error": math.sqrt(sum(error * error for error in errors) / len(errors)),
        } if errors else {}  # fmt: skip
        return {**measured, "no number": 1 - len(errors) / len(records), **super().aggregate(records)}
