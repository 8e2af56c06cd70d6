"""Queries and the documents they are to find, each a text, an image, or both, from every kind of file.

    {"query": "a blue circle", "positives": [{"image": "circle.png"}], "candidates": ["a red square", …]}
    {"query": {"text": …, "image": …, "id": …}, "positives": […], "candidates": […]}
    {"text": …, "image": …, "id": …}       a set without queries: items that are only embedded

A text stands for itself, or as "text"; an image is a path or a data URI under "image". A row without
candidates is ranked against the documents of all rows. A document that comes again is embedded once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bivlm.data.containers import open_set
from bivlm.data.containers.base import Rows
from bivlm.data.fields import Record, check_text, kind_of, listed
from bivlm.data.files import check_root
from bivlm.data.places import Look
from bivlm.data.reading import Missing
from bivlm.data.samples import choose_split
from bivlm.errors import InputError
from bivlm.types import Sample

QUERY, POSITIVES, CANDIDATES = "query", "positives", "candidates"


@dataclass(frozen=True)
class Entry:
    """A text, an image, or both, to embed: a sample whose question is the text, and the vector's name."""

    id: str
    sample: Sample


@dataclass(frozen=True)
class RetrievalSet:
    """Queries and documents. `relevant` has the numbers of every query's right documents, `pools` of all
    those it is ranked against, the right ones included. A set of items alone has documents and no queries.
    """

    queries: tuple[Entry, ...]
    documents: tuple[Entry, ...]
    relevant: tuple[tuple[int, ...], ...]
    pools: tuple[tuple[int, ...], ...]

    @property
    def samples(self) -> list[Sample]:
        """What is embedded: the queries, then the documents."""
        return [entry.sample for entry in (*self.queries, *self.documents)]


def read_retrieval(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    system: str = "",
    data_root: str | Path | None = None,
) -> RetrievalSet:
    """The queries and documents of a file, a folder or a set of the hub; with `limit`, those of a random
    subset of rows, the same for the same `seed`. `system` is a system prompt for everything that has none.
    Images that the data names must lie in `data_root`, if it is given.

    Raises InputError, naming the row, for an empty item, a query without positives or with nothing else to
    rank, an image that is not there, an id that stands for two things, and rows of both kinds in one set.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} rows leaves nothing to do; give 1 or more")
    rows, divided = choose_split(open_set(source), split, str(source))
    if divided:
        raise InputError(f"{source} has no splits, and so no {split!r}; leave --split out")
    if not rows.count:
        raise InputError(f"{rows.name} holds no rows; it needs a query with positives, or a text or an image")
    numbers = list(range(rows.count))
    if limit is not None and limit < rows.count:
        numbers = sorted(random.Random(seed).sample(numbers, limit))
    return _Reader(rows, Look(rows.folder, check_root(data_root), rows.bare_base64), system).read(numbers)


@dataclass
class _Reader:
    """Reads rows into a set: every document once."""

    rows: Rows
    look: Look
    system: str
    queries: list[Entry] = field(default_factory=list)
    documents: list[Entry] = field(default_factory=list)
    relevant: list[tuple[int, ...]] = field(default_factory=list)
    pools: list[tuple[int, ...] | None] = field(default_factory=list)
    known: dict[object, int] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)

    def read(self, numbers: Sequence[int]) -> RetrievalSet:
        kinds = set()
        for number in numbers:
            record, origin = self.rows.read(number), self.rows.origin(number)
            kinds.add(QUERY in record)
            if len(kinds) > 1:
                raise InputError(
                    f"{origin}: some rows have a query and others have none; make two sets of them"
                )
            if QUERY in record:
                self._row(record, origin)
            else:
                self._add(record, "the item", origin)
        missing = Missing()
        for entry in (*self.queries, *self.documents):
            missing.look_at(entry.sample)
        missing.check()
        everything = tuple(range(len(self.documents)))
        pools = [everything if pool is None else pool for pool in self.pools]
        for entry, relevant, pool in zip(self.queries, self.relevant, pools, strict=True):
            if len(pool) == len(relevant):
                raise InputError(
                    f"{entry.sample.origin}: there is nothing to rank but the positives; give candidates"
                    " that are no positives"
                )
        return RetrievalSet(tuple(self.queries), tuple(self.documents), tuple(self.relevant), tuple(pools))

    def _row(self, record: Record, origin: str) -> None:
        query = self._entry(record[QUERY], f"'{QUERY}'", origin, f"q{len(self.queries) + 1}")
        if any(query.id == other.id for other in self.queries):
            raise InputError(f"{origin}: the id {query.id!r} is that of an earlier query; give each its own")
        listed_positives = self._list(record, POSITIVES, origin)
        if not listed_positives:
            raise InputError(f"{origin}: '{POSITIVES}' is missing or empty ({listed(record)})")
        positives = [self._add(one, f"'{POSITIVES}'", origin) for one in listed_positives]
        candidates = self._list(record, CANDIDATES, origin)
        others = [self._add(one, f"'{CANDIDATES}'", origin) for one in candidates or ()]
        self.queries.append(query)
        self.relevant.append(tuple(dict.fromkeys(positives)))
        self.pools.append(None if candidates is None else tuple(dict.fromkeys([*positives, *others])))

    def _list(self, record: Record, name: str, origin: str) -> list[Any] | None:
        value = record.get(name)
        if value is None or isinstance(value, list):
            return value
        raise InputError(f"{origin}: '{name}' must be a list, and is {kind_of(value)}")

    def _add(self, value: Any, name: str, origin: str) -> int:
        """The number of a document, new or known. InputError for an id that another document has."""
        entry = self._entry(value, name, origin, f"d{len(self.documents) + 1}")
        named = isinstance(value, Mapping) and value.get("id") is not None
        image = entry.sample.image
        shown = str(image) if image is None or isinstance(image, Path) else id(image)
        content = entry.sample.question, shown
        key = (entry.id, *content) if named else content
        if key not in self.known:
            if entry.id in self.ids:
                raise InputError(
                    f"{origin}: the id {entry.id!r} is that of another document; give each its own, and"
                    " the same text and image to what comes again"
                )
            self.ids.add(entry.id)
            self.known[key] = len(self.documents)
            self.documents.append(entry)
        return self.known[key]

    def _entry(self, value: Any, name: str, origin: str, own_id: str) -> Entry:
        """What to embed: a text, or an object with text, image and id. InputError if there is neither."""
        if isinstance(value, str):
            return Entry(
                own_id, Sample(None, check_text(value, name, origin), origin=origin, system=self.system)
            )
        if not isinstance(value, Mapping):
            raise InputError(
                f"{origin}: {name} must be a text, or an object with 'text' and 'image', and is"
                f" {kind_of(value)}"
            )
        text, image = value.get("text"), value.get("image")
        if image is None and text is None:
            raise InputError(f"{origin}: {name} has no 'text' and no 'image' ({listed(value)})")
        words = "" if text is None else check_text(text, f"the text of {name}", origin)
        picture = None if image is None else self.look.image(image, f"the image of {name}", origin)
        called = value.get("id")
        if called is not None and not isinstance(called, str | int):
            raise InputError(f"{origin}: the id of {name} must be a text, and is {kind_of(called)}")
        sample = Sample(picture, words, origin=origin, system=self.system)
        return Entry(own_id if called is None else str(called), sample)
