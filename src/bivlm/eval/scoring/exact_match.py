"""Exact match: the answer is one of the references, after the normalisation of the VQA challenge.

An answer of which nothing is left (punctuation, articles) is never right.
"""

from __future__ import annotations

from collections.abc import Sequence

from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.normalised import has_answer, normalise
from bivlm.types import Sample


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 when the normalised answer is one of the normalised references and not empty, else 0."""
    given = normalise(answer)
    return float(given != "" and given in map(normalise, references))


class ExactMatch(Scorer):
    """1 for an answer that is one of the references, else 0."""

    name = "exact_match"
    needs = "a reference with more than punctuation and articles"

    def score(self, answer: str, sample: Sample) -> float:
        return exact_match(answer, sample.answers)

    def usable(self, sample: Sample) -> bool:
        return has_answer(sample.answers)
