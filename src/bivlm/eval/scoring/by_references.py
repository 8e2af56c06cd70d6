"""The scorer of a data set that names none: each question by its references.

A question that lists choices, and whose first reference is the letter of one, is multiple choice: the answer
is right if it begins with this letter, alone or before one of ").:", or if it is another reference, which is
the choice's text. Any other question is scored by VQA accuracy or by exact match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.choices import choices_in, is_letter
from bivlm.eval.scoring.exact_match import exact_match
from bivlm.eval.scoring.normalised import has_answer
from bivlm.eval.scoring.vqa import vqa_accuracy
from bivlm.types import Sample

# with fewer references no answer can reach a VQA accuracy of 1: one is left out, and three must agree
FEWEST_VOTES = 4
MULTIPLE_CHOICE = "multiple_choice"
LETTER = re.compile(r"\(?([A-Z])(?:[).:]|$)")
METRICS = {"exact_match": exact_match, "vqa_accuracy": vqa_accuracy}


def metric_of(references: Sequence[str]) -> str:
    """The metric that suits a question: "vqa_accuracy" if several people answered, "exact_match" if there is
    one reference or a few alternatives.
    """
    return "vqa_accuracy" if len(references) >= FEWEST_VOTES else "exact_match"


def score(answer: str, references: Sequence[str]) -> float:
    """The answer's score in [0, 1] by the metric that suits the question. Raises ValueError without
    references.
    """
    if not references:
        raise ValueError("an answer without references has no score")
    return METRICS[metric_of(references)](answer, references)


def is_multiple_choice(sample: Sample) -> bool:
    """Whether the question lists choices, and the first reference is the letter of one."""
    return (
        bool(sample.answers)
        and is_letter(sample.answers[0])
        and sample.answers[0] in choices_in(sample.question)
    )


def chosen_rightly(answer: str, sample: Sample) -> float:
    """1 for the right letter or the text of its choice, else 0."""
    named = LETTER.match(answer.strip())
    if named is not None:
        return float(named[1] == sample.answers[0])
    return exact_match(answer, sample.answers[1:])


class ByReferences(Scorer):
    """Multiple choice by letter or text, VQA accuracy where several people answered, exact match
    elsewhere.
    """

    name = "by_references"
    needs = "a reference with more than punctuation and articles"

    def score(self, answer: str, sample: Sample) -> float:
        return chosen_rightly(answer, sample) if is_multiple_choice(sample) else score(answer, sample.answers)

    def usable(self, sample: Sample) -> bool:
        return is_multiple_choice(sample) or has_answer(sample.answers)

    def metric(self, samples: Sequence[Sample]) -> str:
        return "+".join(sorted({_metric(sample) for sample in samples}))


def _metric(sample: Sample) -> str:
    return MULTIPLE_CHOICE if is_multiple_choice(sample) else metric_of(sample.answers)
