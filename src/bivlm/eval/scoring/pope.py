"""POPE: is this object in the image? Precision, recall and F1 of "yes".

Source: `evaluate.py` of the benchmark (Li et al., "Evaluating Object Hallucination in Large Vision-Language
Models", 2023). Of an answer the first sentence counts, without commas: it is "no" if one of its words is
"No", "no" or "not", and "yes" otherwise, whatever it says. An answer that is empty is therefore a "yes". The
groups are the three ways in which absent objects were chosen: random, popular, adversarial. The original
divides by zero if no answer is "yes"; precision and F1 are 0 then.
"""

from __future__ import annotations

from collections.abc import Sequence

from bivlm.eval.records import Record
from bivlm.eval.scoring.base import Scorer, by_group, mean_score
from bivlm.types import Sample

NEGATIONS = frozenset({"No", "no", "not"})


def parse(answer: str) -> str:
    """ "no" if the first sentence denies, else "yes"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "yes" if NEGATIONS.isdisjoint(words) else "no"


class Pope(Scorer):
    """1 for the right one of yes and no."""

    name = "pope"
    needs = "yes or no"

    def score(self, answer: str, sample: Sample) -> float:
        return float(parse(answer) == sample.answers[0].strip().lower())

    def usable(self, sample: Sample) -> bool:
        return bool(sample.answers) and sample.answers[0].strip().lower() in ("yes", "no")

    def aggregate(self, records: Sequence[Record]) -> dict[str, float]:
        """Accuracy, precision, recall, F1 and share of "yes", of all and of every group."""
        groups = {f"{group} ": chosen for group, chosen in by_group(records).items() if group}
        return {
            f"{group}{name}": value
            for group, chosen in {"": records, **groups}.items()
            for name, value in _measures(chosen).items()
        }


def _measures(records: Sequence[Record]) -> dict[str, float]:
    pairs = [(parse(record.answer), record.references[0].strip().lower()) for record in records]
    said, there = (sum(pair[side] == "yes" for pair in pairs) for side in (0, 1))
    right = pairs.count(("yes", "yes"))
    return {
        "accuracy": mean_score(records),
        "precision": right / said if said else 0.0,
        "recall": right / there if there else 0.0,
        "f1": 2 * right / (said + there) if said + there else 0.0,
        "yes ratio": said / len(pairs),
    }
