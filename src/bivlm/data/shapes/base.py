"""What a shape is: the meaning of a record's fields, whatever kind of file the record is from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bivlm.data.fields import Record, group_of, kind_of
from bivlm.data.places import Look
from bivlm.errors import InputError
from bivlm.types import Sample, Turn, Visual


@dataclass(frozen=True)
class Pictured:
    """A place of an image among texts: the value that names the image, and what messages call it."""

    value: Any
    name: str


@dataclass(frozen=True)
class Filmed:
    """A place of a video among texts: the value that names it, what messages call it, and its frames per
    second, if the record says them.
    """

    value: Any
    name: str
    fps: Any = None


Part = str | Pictured | Filmed


@dataclass(frozen=True)
class Row:
    """One record, where it stands ("vqa.jsonl:12"), and how its images and videos are found."""

    record: Record
    origin: str
    look: Look

    def resolved(self, parts: Iterable[Part | Visual]) -> tuple[str | Visual, ...]:
        """Texts, images and videos; the texts alone if the others are not wanted."""
        return tuple(
            self._resolved(part)
            for part in parts
            if self.look.wanted or not isinstance(part, Pictured | Filmed)
        )

    def _resolved(self, part: Part | Visual) -> str | Visual:
        if isinstance(part, Pictured):
            return self.look.image(part.value, part.name, self.origin)
        if not isinstance(part, Filmed):
            return part
        rate = part.fps
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e6
        ):
            raise InputError(
                f"{self.origin}: 'fps' must be a number of frames per second above 0, and is {kind_of(rate)}"
            )
        return self.look.video(part.value, part.name, self.origin, None if rate is None else float(rate))

    def sample(
        self,
        parts: Iterable[Part | Visual],
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
