"""What an evaluation keeps of every question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

RECORDS_VERSION = "2"  # changes whenever a record holds something else; studies measure again then


@dataclass(frozen=True)
class Record:
    """One question of an evaluation.

    `image` is a digest of the question's images, equal for questions about the same ones; empty without an
    image. `confidence` is the model's probability of its whole answer, the end included; `mean_confidence` is
    the mean probability of the answer's tokens and `first_confidence` that of the first. They are None where
    a logit was not finite.

    With a reference: `kl` is the mean over the `tokens` of the reference's answer, in nats, and `agreement`
    the share of them for which both models have the same likeliest one; `kl` is None where no token is
    finite, and such tokens are not among `tokens`. `greedy` says whether the model's own answer is, word for
    word, the reference's; it is None if the two were allowed answers of different lengths.
    """

    origin: str
    question: str
    answer: str
    references: tuple[str, ...]
    score: float
    group: str = ""
    image: str = ""
    confidence: float | None = None
    mean_confidence: float | None = None
    first_confidence: float | None = None
    kl: float | None = None
    tokens: int | None = None
    agreement: float | None = None
    greedy: bool | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Record:
        """The record that `asdict` and JSON made plain."""
        known = {field.name: content[field.name] for field in fields(cls)}
        return cls(**{**known, "references": tuple(known["references"])})


def clusters_of(records: Sequence[Record]) -> list[str]:
    """A name for every record, equal for questions about the same images: these are not independent. A
    question without an image is alone.
    """
    return [record.image or f"alone {number}" for number, record in enumerate(records)]
