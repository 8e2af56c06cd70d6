"""The mean score of every group of questions (a task, a subject, a kind of question) with its interval: which
ability a small model loses first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bivlm.eval.records import Record
from bivlm.eval.scoring.base import by_group, mean_score
from bivlm.eval.statistics.intervals import mean_interval


@dataclass(frozen=True)
class GroupScore:
    """A group of `n` questions; `interval` is the 95 % interval of its mean score, with questions taken as
    independent. The group "" are the questions without one.
    """

    group: str
    n: int
    accuracy: float
    interval: tuple[float, float]


def group_scores(records: Sequence[Record]) -> tuple[GroupScore, ...]:
    """Every group, the lowest score first, among equals by name; none where no question has a group."""
    groups = by_group(records)
    if not any(groups):
        return ()
    found = [
        GroupScore(group, len(own), mean_score(own), mean_interval([record.score for record in own]))
        for group, own in groups.items()
    ]
    return tuple(sorted(found, key=lambda row: (row.accuracy, row.group)))
