"""One JSON document: an array of records, an object that holds them, or one record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bivlm.data.containers.base import SPLITS, WHOLE, Container, Opened, Rows
from bivlm.data.containers.joined import is_joined, joined
from bivlm.data.containers.json_lines import is_one_document, json_error
from bivlm.data.fields import kind_of
from bivlm.data.shapes import SHAPES
from bivlm.errors import InputError, cut

FILE_BYTES = 1 << 30  # the whole document is in memory, several times as large


def _open(path: Path) -> Opened:
    return opened(path, path.name)


def opened(path: Path, name: str, annotations: Path | None = None) -> Opened:
    """The records of a document. `annotations` is a second file for VQAv2; left out, it is looked for. Raises
    InputError, naming the line, for what is no JSON, and for a document without records.
    """
    document = document_of(path, name)
    if annotations is not None or is_joined(document):
        records = joined(document, path, document_of, annotations)
        return Opened("JSON", {WHOLE: lambda: _rows(records, name, path)})
    splits = _records(document, name)
    return Opened("JSON", {split: _later(found, name, split, path) for split, found in splits.items()})


def _later(found: Any, name: str, split: str, path: Path) -> Callable[[], Rows]:
    return lambda: _rows(found, f"{name} {split}".strip(), path)


def document_of(path: Path, name: str) -> Any:
    """The value that a file holds. Raises InputError for a file that is too large, is no text in UTF-8, or no
    JSON.
    """
    try:
        if path.stat().st_size > FILE_BYTES:
            raise InputError(
                f"{name} is a JSON document of {path.stat().st_size >> 20} MiB, and at most"
                f" {FILE_BYTES >> 20} are read at once; write each record as one line (jq -c '.[]'), then any"
                " size is read"
            )
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not a text in UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        extra = "; several objects are there: write each as one line" if error.msg == "Extra data" else ""
        raise InputError(f"{name}:{error.lineno}: not JSON ({json_error(error)}){extra}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}:1: not JSON ({json_error(error)})") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _records(document: Any, name: str) -> Mapping[str, list[Any]]:
    """The lists of records in a document, by split."""
    if isinstance(document, list):
        return {WHOLE: document}
    if not isinstance(document, dict):
        raise InputError(f"{name} holds {kind_of(document)}, and no list of records")
    lists = {key: value for key, value in document.items() if _is_list_of_records(value)}
    if lists and all(key.lower() in SPLITS for key in lists):
        return lists
    if any(shape.matches(document) for shape in SHAPES):
        return {WHOLE: [document]}
    if len(lists) == 1:
        return {WHOLE: next(iter(lists.values()))}
    if not lists and document and all(isinstance(value, dict) for value in document.values()):
        return {WHOLE: [{"id": key, **value} for key, value in document.items()]}  # records by their id
    which = f"several lists of records: {cut(', '.join(lists), 200)}" if lists else "no list of records"
    raise InputError(
        f"{name} is an object with {which} (it has {cut(', '.join(document), 200)}); write the records as one"
        " array"
    )


def _is_list_of_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _rows(records: list[Any], name: str, path: Path) -> Rows:
    def origin(row: int) -> str:
        return f"{name}[{row}]"

    def read(row: int) -> Any:
        if not isinstance(records[row], dict):
            raise InputError(f"{origin(row)}: each entry must be an object, and is {kind_of(records[row])}")
        return records[row]

    return Rows(name, path.parent, len(records), read, origin, is_checked=True)


def _reads(path: Path) -> bool:
    try:
        return path.is_file() and is_one_document(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


DOCUMENT = Container(
    name="JSON",
    what="an array of objects, or an object that holds one",
    reads=_reads,
    open=_open,
)
