"""Boxes: intersection over union of the answer's box and the reference's.

A box is right from an IoU of 0.5 on, as in the PASCAL VOC challenge (Everingham et al., 2010) and in visual
grounding (RefCOCO's accuracy); LENS (Yao et al., 2025) asks for boxes, and its own code is not public. The
first four numbers of a text are x1, y1, x2, y2, whatever stands around them: "[12, 30, 50, 64]",
"<box>(12,30),(50,64)</box>". Answer and reference use the same units: the prompt says which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bivlm.eval.records import Record
from bivlm.eval.scoring.base import Scorer
from bivlm.types import Sample

RIGHT = 0.5
NUMBER = re.compile(r"-?\d+(?:\.\d+)?|-?\.\d+")
Box = tuple[float, float, float, float]


def box_in(text: str) -> Box | None:
    """The first four numbers of a text, or None if it has fewer."""
    numbers = [float(number) for number in NUMBER.findall(text)]
    return None if len(numbers) < 4 else (numbers[0], numbers[1], numbers[2], numbers[3])


def iou(first: Box, second: Box) -> float:
    """Area of the intersection over that of the union, 0…1; a box whose corners are in the wrong order has
    no area.
    """
    width, height = (
        max(0.0, min(first[side + 2], second[side + 2]) - max(first[side], second[side])) for side in (0, 1)
    )
    union = _area(first) + _area(second) - width * height
    return width * height / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def best_iou(answer: str, references: Sequence[str]) -> float:
    """The IoU with the nearest reference; 0 for an answer without a box."""
    given, boxes = box_in(answer), map(box_in, references)
    return 0.0 if given is None else max((iou(given, box) for box in boxes if box is not None), default=0.0)


class Iou(Scorer):
    """1 for a box that overlaps a reference by half."""

    name = "iou"
    needs = "a box with an area, as four numbers x1, y1, x2, y2"

    def score(self, answer: str, sample: Sample) -> float:
        return float(best_iou(answer, sample.answers) >= RIGHT)

    def usable(self, sample: Sample) -> bool:
        boxes = map(box_in, sample.answers)
        return any(box is not None and _area(box) > 0 for box in boxes)

    def aggregate(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean IoU, and the mean score of every group."""
        overlaps = [best_iou(record.answer, record.references) for record in records]
        return {"mean IoU": sum(overlaps) / len(overlaps), **super().aggregate(records)}
