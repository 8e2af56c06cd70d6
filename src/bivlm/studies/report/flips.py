"""Questions on which models differ: right under one, wrong under another, or answered in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bivlm.eval.records import Record
from bivlm.studies.report.evaluated import Evaluated

Key = tuple[str, str, str]  # origin, question, digest of the images


@dataclass(frozen=True)
class Asked:
    """One question with the record of every model that was asked it, None for the others; in the models'
    order.
    """

    question: str
    references: tuple[str, ...]
    group: str
    image: str
    records: tuple[Record | None, ...]

    @property
    def kind(self) -> str:
        """How the models differ from the first: "lost" (it is right and another is not), "gained" (the other
        way round), "words" (other words, the same score), or "same".
        """
        first, others = self.records[0], [record for record in self.records[1:] if record is not None]
        if first is None or not others:
            return "same"
        if any(record.score < first.score for record in others):
            return "lost"
        if any(record.score > first.score for record in others):
            return "gained"
        return "words" if any(record.answer != first.answer for record in others) else "same"


def asked_by(several: Sequence[Evaluated]) -> list[Asked]:
    """All questions, in the order of the first evaluation that has them."""
    tables = [{_key(record): record for record in evaluated.records} for evaluated in several]
    keys = dict.fromkeys(key for table in tables for key in table)
    found = []
    for key in keys:
        records = tuple(table.get(key) for table in tables)
        known = next(record for record in records if record is not None)
        found.append(Asked(known.question, known.references, known.group, known.image, records))
    return found


def _key(record: Record) -> Key:
    return record.origin, record.question, record.image
