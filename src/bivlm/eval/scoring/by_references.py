"""The scorer of a data set that names none: each question by the number of its references."""

from __future__ import annotations

from collections.abc import Sequence

from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.exact_match import exact_match
from bivlm.eval.scoring.normalised import has_answer
from bivlm.eval.scoring.vqa import vqa_accuracy
from bivlm.types import Sample

# with fewer references no answer can reach a VQA accuracy of 1: one is left out, and three must agree
FEWEST_VOTES = 4
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


class ByReferences(Scorer):
    """VQA accuracy where several people answered, exact match elsewhere."""

    name = "by_references"
    needs = "a reference with more than punctuation and articles"

    def score(self, answer: str, sample: Sample) -> float:
        return score(answer, sample.answers)

    def usable(self, sample: Sample) -> bool:
        return has_answer(sample.answers)

    def metric(self, samples: Sequence[Sample]) -> str:
        return "+".join(sorted({metric_of(sample.answers) for sample in samples}))
