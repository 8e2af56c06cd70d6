"""Relaxed accuracy: ChartQA, PlotQA.

Source: Masry et al., "ChartQA: A Benchmark for Question Answering about Charts with Visual and Logical
Reasoning", 2022, section 5.1, after Methani et al., 2020; the code is that of pix2struct, which Qwen-VL and
lmms-eval use too. A number may be wrong by 5 % of the reference; "62%" is the number 0.62. Anything else, a
reference of 0, and numbers with thousands commas must be the same text, in lower case. The groups are the two
halves of the test, human and augmented.
"""

from __future__ import annotations

from bivlm.eval.scoring.base import Scorer
from bivlm.types import Sample

TOLERANCE = 0.05


def number_of(text: str) -> float | None:
    """The number that a text is, per cent as a share; None if it is none."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match(answer: str, reference: str) -> bool:
    """Whether the answer is the reference, or a number within 5 % of it."""
    given, right = number_of(answer), number_of(reference)
    if given is not None and right:
        return abs(given - right) / abs(right) <= TOLERANCE
    return answer.lower() == reference.lower()


class RelaxedAccuracy(Scorer):
    """1 for a number that is nearly right, or the right text."""

    name = "relaxed_accuracy"
    needs = "a reference that is not empty"

    def score(self, answer: str, sample: Sample) -> float:
        return float(any(relaxed_match(answer, reference) for reference in sample.answers))

    def usable(self, sample: Sample) -> bool:
        return any(reference.strip() for reference in sample.answers)
