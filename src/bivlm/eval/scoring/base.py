"""What a scorer is: the official rule of a benchmark, for one answer and for all of them.

    score(answer, sample)  0…1, how right the answer is
    aggregate(records)     what the benchmark reports beyond the mean score: sums, F1, errors, by group

A scorer reads the answers of a sample as its benchmark writes them. `usable` says whether any answer could be
right, so that a data set of another kind is refused before a model is asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from bivlm.eval.records import Record
from bivlm.types import Sample


class Scorer(ABC):
    """One way to score answers. `name` is its name in the table, `needs` what an answer of a sample must
    be, in words.
    """

    name: ClassVar[str]
    needs: ClassVar[str]

    @abstractmethod
    def score(self, answer: str, sample: Sample) -> float:
        """How right the answer is, 0…1."""

    @abstractmethod
    def usable(self, sample: Sample) -> bool:
        """Whether any answer to the sample could be right."""

    def metric(self, samples: Sequence[Sample]) -> str:
        """What the mean score of these samples is called."""
        return self.name

    def aggregate(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean score of every group, by the names of the groups; empty without groups."""
        return {group: mean_score(found) for group, found in by_group(records).items() if group}


def by_group(records: Sequence[Record]) -> Mapping[str, list[Record]]:
    """The records of every group, in the order in which the groups come first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return groups


def mean_score(records: Sequence[Record]) -> float:
    """The mean of the scores; there is at least one."""
    return sum(record.score for record in records) / len(records)
