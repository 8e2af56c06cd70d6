"""OCRBench: the answer contains the text.

Source: `OCRBench/example.py` of the benchmark (Liu et al., "OCRBench: On the Hidden Mystery of OCR in Large
Multimodal Models", 2023). In lower case, line breaks as spaces. In handwritten formulas (HME100k, a type of
its own) case counts and spaces do not. A group is a type of question; a point for every right answer, 1000 in
the whole benchmark, of which 300 are for recognition (six of the types).
"""

from __future__ import annotations

from collections.abc import Sequence

from bivlm.eval.records import Record
from bivlm.eval.scoring.base import Scorer, by_group
from bivlm.types import Sample

FORMULAS = "Handwritten Mathematical Expression Recognition"
RECOGNITION = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)


class OcrBench(Scorer):
    """1 for an answer that contains a reference."""

    name = "ocrbench"
    needs = "a reference that is not empty"

    def score(self, answer: str, sample: Sample) -> float:
        read = _formula if sample.group == FORMULAS else _text
        return float(any(read(reference) in read(answer) for reference in sample.answers))

    def usable(self, sample: Sample) -> bool:
        return bool(sample.answers) and all(reference.strip() for reference in sample.answers)

    def aggregate(self, records: Sequence[Record]) -> dict[str, float]:
        """The points of every type, of recognition, and of all."""
        points = {group: sum(record.score for record in found) for group, found in by_group(records).items()}
        total = sum(points.values())
        recognition = [points[group] for group in RECOGNITION if group in points]
        sums = {"Text Recognition": sum(recognition)} if recognition else {}
        return {**{group: value for group, value in points.items() if group}, **sums, "Final Score": total}


def _text(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
