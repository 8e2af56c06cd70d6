"""JSON lines: one record a line. Mistakes are named by file and line; lines stay on the disk."""

from __future__ import annotations

import json
import mmap
from array import array
from pathlib import Path
from typing import Any

from bivlm.data.containers.base import WHOLE, Container, Opened, Rows
from bivlm.data.fields import Record
from bivlm.errors import InputError, cut

LINE_BYTES = 128 << 20  # a line is read as a whole; a data URI in it may hold MAX_URI_BYTES
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # editors on Windows begin a file with it
LINE_SUFFIXES = (".jsonl", ".ndjson")


def _reads(path: Path) -> bool:
    return path.is_file()


def lines_of(path: Path, name: str = "") -> Rows:
    """The lines that are not blank. `name` is what messages call the file. Raises InputError for a file that
    cannot be read.
    """
    shown = name or path.name
    try:
        with path.open("rb") as file:
            content = (
                b"" if path.stat().st_size == 0 else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            )
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    starts, ends, numbers = array("q"), array("q"), array("q")
    start, number = 0, 0
    while start < len(content):
        end = content.find(b"\n", start)
        end, number = len(content) if end < 0 else end, number + 1
        if end - start >= LINE_BYTES or content[start:end].strip():
            starts.append(start)
            ends.append(end)
            numbers.append(number)
        start = end + 1

    def origin(row: int) -> str:
        return f"{shown}:{numbers[row]}"

    def read(row: int) -> Record:
        if ends[row] - starts[row] >= LINE_BYTES:
            raise InputError(
                f"{origin(row)}: a line of over {LINE_BYTES >> 20} MiB; write one JSON object a line"
            )
        return _record(content[starts[row] : ends[row]], origin(row))

    return Rows(shown, path.parent, len(starts), read, origin, is_checked=True)


def _record(line: bytes, origin: str) -> Record:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: not a text in UTF-8 ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{origin}: not JSON ({json_error(error)}); each line must be one object with image, question and"
            " answer"
        ) from error
    if isinstance(record, list):
        raise InputError(f"{origin}: a JSON array; write each of its entries as one line")
    if not isinstance(record, dict):
        raise InputError(
            f"{origin}: each line must be one JSON object with image, question and answer, not"
            f" {cut(line.decode('utf-8-sig').strip(), 40)}"
        )
    return record


def json_error(error: Exception) -> str:
    """What a JSON reader did not like, and where in its line."""
    place = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return cut(place, 200)


def is_one_document(path: Path) -> bool:
    """Whether a file is one JSON document over all its lines, and not a record a line: it begins an array, or
    an object that is the file's only line or that goes on after it.
    """
    with path.open("rb") as file:
        first = b""
        while not first.strip():
            first = file.readline(LINE_BYTES)
            if not first:
                return False
            first = first.removeprefix(BYTE_ORDER_MARK)
        if first.lstrip()[:1] != b"{":
            return first.lstrip()[:1] == b"["
        if len(first) >= LINE_BYTES:
            return path.suffix.lower() not in LINE_SUFFIXES
        text = first.decode("utf-8", errors="replace").strip()
        if _loaded(text) is None:
            return _goes_on(text)
        return path.suffix.lower() not in LINE_SUFFIXES and not any(line.strip() for line in file)


def _loaded(text: str) -> Any:
    """The value of a JSON text; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _goes_on(text: str) -> bool:
    """Whether a text is the beginning of JSON: what is wrong with it is its end."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) or error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return False
    return False


LINES = Container(
    name="JSON lines",
    what="one JSON object a line",
    reads=_reads,
    open=lambda path: Opened("JSON lines", {WHOLE: lambda: lines_of(path)}),
)
