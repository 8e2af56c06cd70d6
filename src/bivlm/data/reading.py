"""From the rows of a split to samples: the shape of the file, the names of its columns, and draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bivlm.data.containers.base import Rows
from bivlm.data.fields import Record, listed
from bivlm.data.files import because, why_no_file
from bivlm.data.places import Look
from bivlm.data.shapes import FIELDS, Row, Shape, find_shape, samples_of
from bivlm.data.videos import files_of
from bivlm.errors import InputError, cut
from bivlm.types import Sample, Video


@dataclass(frozen=True)
class Reader:
    """The samples of every row of a split. `columns` gives fields other names: {"question": "query"} reads
    the column query as the question.
    """

    rows: Rows
    look: Look
    columns: Mapping[str, str]
    answers_required: bool = False

    def record(self, row: int) -> Record:
        """The record of a row, its fields renamed. Raises InputError for a column that is not there."""
        record = self.rows.read(row)
        if not self.columns:
            return record
        absent = next((name for name in self.columns.values() if name not in record), None)
        if absent is not None:
            raise InputError(f"{self.rows.origin(row)}: there is no column {absent!r} ({listed(record)})")
        renamed: dict[str, Any] = {
            name: value for name, value in record.items() if name not in self.columns.values()
        }
        return renamed | {field: record[name] for field, name in self.columns.items()}

    @cached_property
    def first(self) -> tuple[Shape, frozenset[str]]:
        """The shape and the fields of the first row: the file's. Raises InputError if it is of none, and for
        a file without rows.
        """
        if not self.rows.count:
            raise InputError(
                f"{self.rows.name} holds no samples; it needs a record with an image and a question"
            )
        record = self.record(0)
        return find_shape(record, self.rows.origin(0)), frozenset(record)

    def samples(self, row: int) -> list[Sample]:
        """The samples of a row. Raises InputError, naming it, for anything that is wrong with it."""
        shape, fields = self.first
        found = Row(self.record(row), self.rows.origin(row), self.look)
        return samples_of(shape, fields, found, answers_required=self.answers_required)

    def all(self) -> Iterator[Sample]:
        """The samples of all rows, in their order."""
        for row in range(self.rows.count):
            yield from self.samples(row)

    def check(self) -> None:
        """Read every row and forget it. Raises InputError for the first that is wrong, and, with their
        number, for image files that are not there.
        """
        missing = Missing()
        for sample in self.all():
            missing.look_at(sample)
        missing.check()

    def drawn(self, limit: int | None, seed: int, accepts: Callable[[Sample], bool]) -> list[Sample]:
        """The samples that are accepted, in their order; with `limit`, a random subset of that many. As long
        as there are enough rows, each gives one sample at most.
        """
        if limit is None:
            return [sample for sample in self.all() if accepts(sample)]
        chosen: list[tuple[int, int, Sample]] = []
        spare: list[tuple[int, int, Sample]] = []
        for row in _random_rows(self.rows.count, limit, seed):
            found = [(row, place, one) for place, one in enumerate(self.samples(row)) if accepts(one)]
            if found:
                pick = random.Random(f"{seed} {row}").randrange(len(found)) if len(found) > 1 else 0
                chosen.append(found.pop(pick))
                spare += found
            if len(chosen) == limit:
                break
        chosen += spare[: limit - len(chosen)]
        return [sample for _, _, sample in sorted(chosen, key=lambda one: one[:2])]


def _random_rows(count: int, limit: int, seed: int) -> Iterator[int]:
    """Every row once: first a sample of `limit` of them, then the others in random order."""
    first = random.Random(seed).sample(range(count), limit) if limit < count else list(range(count))
    yield from first
    if limit < count:
        known = set(first)
        yield from (
            row for row in random.Random(f"{seed} more").sample(range(count), count) if row not in known
        )


class Missing:
    """Counts files of images and videos that are not there."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def look_at(self, sample: Sample) -> None:
        for visual in sample.visuals:
            kind = "video" if isinstance(visual, Video) else "image"
            for file in files_of(visual):
                why = why_no_file(file)
                if not why:
                    continue
                self.count += 1
                said = f"{sample.origin}: there is no {kind} file {cut(str(file), 200)}{because(why)}"
                self.first = self.first or said

    def check(self) -> None:
        """Raises InputError, naming the first, if there is any."""
        if self.count:
            more = self.count - 1
            others = f" (and {more} more lines name images that are not there)" if more else ""
            raise InputError(
                f"{self.first}{others}; paths are relative to the folder of the data file, or to --data-root"
            )


def checked_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """The names of columns by field. Raises InputError for a field that no shape reads."""
    unknown = next((field for field in columns or {} if field not in FIELDS), None)
    if unknown is not None:
        raise InputError(f"--columns: there is no field {unknown!r}; fields are {', '.join(sorted(FIELDS))}")
    return dict(columns or {})
