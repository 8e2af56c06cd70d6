"""Samples with references alone, and the records that an evaluation makes of answers to them."""

from __future__ import annotations

from bivlm.eval.records import Record
from bivlm.eval.scoring.base import Scorer
from bivlm.types import Sample


def sample(*references: str, question: str = "?", group: str = "") -> Sample:
    return Sample(None, question, references, group=group)


def record(
    scorer: Scorer, answer: str, *references: str, question: str = "?", group: str = "", image: str = ""
) -> Record:
    asked = sample(*references, question=question, group=group)
    return Record("", question, answer, references, scorer.score(answer, asked), group, image)
