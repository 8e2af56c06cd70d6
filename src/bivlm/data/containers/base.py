"""What a container is: how records are stored. It gives the rows of every split, whatever they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bivlm.data.fields import Record

WHOLE = ""  # the one split of a set that has none
# names of splits, for files and folders that are called so
SPLITS = ("train", "training", "test", "testing", "testdev", "validation", "valid", "val", "dev", "minitest")
SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}")  # how the hub names the files of a split
WORDS = re.compile(r"[^A-Za-z]+")


@dataclass(frozen=True)
class Rows:
    """The rows of one split.

    name         what messages call it
    folder       what image paths are relative to
    count        how many rows there are
    read         the record of a row. Raises InputError, naming the row, for what is no record
    origin       where a row stands ("vqa.jsonl:12")
    is_checked   whether every row is read before any is used, so that a damaged one is always found
    bare_base64  whether an image may be base64 without its type
    """

    name: str
    folder: Path
    count: int
    read: Callable[[int], Record]
    origin: Callable[[int], str]
    is_checked: bool = False
    bare_base64: bool = False


@dataclass(frozen=True)
class Opened:
    """A data set: the name of its container, and its splits, none of which is read yet. The one key WHOLE
    says that the set has no splits.
    """

    kind: str
    splits: Mapping[str, Callable[[], Rows]]


@dataclass(frozen=True)
class Container:
    """One way to store records.

    name   what people call it
    what   what it is, for the documents
    reads  whether a path is stored so; it looks at names and first bytes
    open   the data set. Raises InputError for a damaged one
    """

    name: str
    what: str
    reads: Callable[[Path], bool]
    open: Callable[[Path], Opened]


def split_in_name(path: Path) -> str:
    """The split that a file's name says, as the hub writes it ("train-00000-of-00002.parquet") or as one of
    its words ("llava_train.json"); WHOLE if it says none, or several.
    """
    shard = SHARD.match(path.name)
    if shard is not None:
        return shard["split"]
    found = {word for word in WORDS.split(path.stem.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else WHOLE


def begins_with(path: Path, *magics: bytes) -> bool:
    """Whether a file begins with one of these bytes; False for what cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(max(map(len, magics)))
    except OSError:
        return False
    return start.startswith(magics)
