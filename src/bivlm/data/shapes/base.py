"""What a shape is: the meaning of a record's fields, whatever kind of file the record is from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bivlm.data.fields import Record, group_of
from bivlm.data.places import Look
from bivlm.types import Picture, Sample, Turn


@dataclass(frozen=True)
class Pictured:
    """A place of an image among texts: the value that names the image, and what messages call it."""

    value: Any
    name: str


Part = str | Pictured


@dataclass(frozen=True)
class Row:
    """One record, where it stands ("vqa.jsonl:12"), and how its images are found."""

    record: Record
    origin: str
    look: Look

    def resolved(self, parts: Iterable[Part | Picture]) -> tuple[str | Picture, ...]:
        """Texts and images; without the images if they are not wanted."""
        return tuple(
            self.look.image(part.value, part.name, self.origin) if isinstance(part, Pictured) else part
            for part in parts
            if self.look.wanted or not isinstance(part, Pictured)
        )

    def sample(
        self,
        parts: Iterable[Part | Picture],
        answers: Sequence[str] = (),
        *,
        system: str = "",
        turns: tuple[Turn, ...] = (),
    ) -> Sample:
        """The sample of a question in parts, with the record's group and origin."""
        return Sample.of(
            self.resolved(parts),
            tuple(answers),
            self.origin,
            system,
            group_of(self.record),
            turns,
        )


@dataclass(frozen=True)
class Shape:
    """One meaning of a record.

    name     what people call it
    fields   what a record needs: of each entry one field
    more     fields that are read where they are there
    example  what is read with it, for the documents
    matches  whether a record is meant so; it looks at the names and kinds of its fields, not into them
    samples  the samples of a record, one or several. Raises InputError, naming the row, for what is missing,
             empty or of a wrong type
    """

    name: str
    fields: tuple[tuple[str, ...], ...]
    more: tuple[str, ...]
    example: str
    matches: Callable[[Record], bool]
    samples: Callable[[Row], Iterable[Sample]]

    def lacks(self, record: Record) -> list[str]:
        """What a record would need more, each as its first name."""
        return [names[0] for names in self.fields if not any(has(record, name) for name in names)]


def has(record: Record, *names: str) -> bool:
    """Whether a record has one of these fields, with a value."""
    return any(record.get(name) is not None for name in names)
