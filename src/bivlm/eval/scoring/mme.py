"""MME: yes or no, two questions about every image.

Source: `eval_tool/calculation.py` of the benchmark (Fu et al., "MME: A Comprehensive Evaluation Benchmark for
Multimodal Large Language Models", 2023). An answer is read in lower case: "yes" or "no" alone, else whichever
of them is among its first four characters, "yes" first; anything else is wrong. For every subtask, in per
cent:

    acc    share of the questions that are answered right
    acc+   share of the images of which both questions are
    score  acc + acc+, 0…200; perception is the sum over ten subtasks (2000 at most), cognition over four
           (800)

A group is a subtask. The tool takes two lines after the other for the questions of an image; here they are
those with the same image, so that any order will do. An image that has lost its second question (a limit on
the questions) is left out of acc+.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bivlm.eval.records import Record
from bivlm.eval.scoring.base import Scorer, by_group, mean_score
from bivlm.types import Sample

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
LABELS = ("yes", "no")
PREFIX = 4  # characters in which an answer has to say it
PAIR = 2


def parse(answer: str) -> str:
    """ "yes", "no", or "other" if the answer begins with neither."""
    said = answer.strip().lower()
    if said in LABELS:
        return said
    return next((label for label in LABELS if label in said[:PREFIX]), "other")


class Mme(Scorer):
    """1 for the right one of yes and no."""

    name = "mme"
    needs = "yes or no"

    def score(self, answer: str, sample: Sample) -> float:
        return float(parse(answer) == sample.answers[0].strip().lower())

    def usable(self, sample: Sample) -> bool:
        return bool(sample.answers) and sample.answers[0].strip().lower() in LABELS

    def aggregate(self, records: Sequence[Record]) -> dict[str, float]:
        """acc, acc+ and score of every subtask, and the sums "perception" and "cognition" where they have
        one.
        """
        found: dict[str, float] = {}
        scores: dict[str, float] = {}
        for group, chosen in by_group(records).items():
            accuracy, both = 100 * mean_score(chosen), 100 * _both_right(chosen)
            name = group or "all"
            scores[name] = accuracy + both
            found |= {f"{name} acc": accuracy, f"{name} acc+": both, f"{name} score": scores[name]}
        for total, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
            there = [scores[subtask] for subtask in subtasks if subtask in scores]
            if there:
                found[total] = sum(there)
        return found


def _both_right(records: Sequence[Record]) -> float:
    """The share of the images with two questions of which both are answered right; 0 without such images."""
    asked, right = Counter[str](), Counter[str]()
    for record in records:
        asked[record.image] += 1
        right[record.image] += record.score == 1
    paired = [image for image, count in asked.items() if count == PAIR]
    return sum(right[image] == PAIR for image in paired) / len(paired) if paired else 0.0
