"""VQA accuracy: how many people gave the same answer.

Source: the evaluation code of the VQA challenge (Antol et al., "VQA: Visual Question Answering", 2015;
https://visualqa.org/evaluation.html). VizWiz and TextVQA use the same rule. An answer that is empty once it
is normalised is never right here; in the original it equals every other of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence

from bivlm.eval.scoring.base import Scorer
from bivlm.eval.scoring.normalised import has_answer, normalise
from bivlm.types import Sample


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """The mean, with each reference left out once, of min(1, number of matches among the others / 3); 0 for
    an answer that is empty once it is normalised.
    """
    given = normalise(answer)
    if given == "":
        return 0.0
    votes = sum(normalise(reference) == given for reference in references)
    others = len(references) - votes
    return (votes * min(1.0, (votes - 1) / 3) + others * min(1.0, votes / 3)) / len(references)


class VqaAccuracy(Scorer):
    """The share of three agreeing people that an answer reaches."""

    name = "vqa_accuracy"
    needs = "a reference with more than punctuation and articles"

    def score(self, answer: str, sample: Sample) -> float:
        return vqa_accuracy(answer, sample.answers)

    def usable(self, sample: Sample) -> bool:
        return has_answer(sample.answers)
