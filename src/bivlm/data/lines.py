"""A JSONL file: one record a line, images by path or as data URIs; mistakes are named by file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bivlm.data.files import because, why_no_file
from bivlm.data.places import find_image
from bivlm.data.rows import to_sample
from bivlm.errors import InputError, cut
from bivlm.types import Sample

LINE_BYTES = 128 << 20  # a line is read as a whole; a data URI in it may hold MAX_URI_BYTES


def read_lines(
    file: Path, source: Path, *, answers_required: bool, images: bool, root: Path | None
) -> list[Sample]:
    """The samples of a JSONL file of the data set `source`. With `root`, image paths must lie in it.

    Raises InputError, naming the line, for anything that is missing, empty, damaged or of a wrong type, and
    for an image file that is not there.
    """
    shown = file.name if file == source else (Path(source.name) / file.relative_to(source)).as_posix()
    samples = []
    for record, origin in _records(file, shown):
        find = partial(find_image, origin=origin, folder=file.parent, root=root) if images else None
        samples.append(to_sample(record, None, origin, answers_required=answers_required, find=find))
    if not samples:
        raise InputError(f"{source} holds no samples; write one JSON object a line: image, question, answer")
    _check_image_files(samples)
    return samples


def _records(file: Path, shown: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every record with its place."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LINE_BYTES), b""), 1):
                if line.strip():
                    yield _record(line, f"{shown}:{number}"), f"{shown}:{number}"
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from error


def _record(line: bytes, origin: str) -> dict[str, Any]:
    if len(line) == LINE_BYTES:
        raise InputError(f"{origin}: a line of over {LINE_BYTES >> 20} MiB; write one JSON object a line")
    try:
        record = json.loads(
            line.decode("utf-8-sig")
        )  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: not a text in UTF-8 ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        shape = _shape_of_part(line)
        if shape:
            raise InputError(f"{origin}: {shape}") from error
        cause = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise InputError(
            f"{origin}: not JSON ({cut(str(cause), 200)}); each line must be one object with image, question"
            " and answer"
        ) from error
    if isinstance(record, list):
        raise InputError(f"{origin}: a JSON array; write each of its entries as one line")
    if not isinstance(record, dict):
        raise InputError(
            f"{origin}: each line must be one JSON object with image, question and answer, not"
            f" {cut(line.decode().strip(), 40)}"
        )
    return record


def _shape_of_part(line: bytes) -> str:
    """What the beginning of JSON over several lines is; "" for anything else."""
    match line.lstrip(b"\xef\xbb\xbf").strip():
        case b"[" | b"[{":
            return "the beginning of a JSON array; write each of its entries as one line"
        case b"{":
            return "the beginning of an object over several lines; write each object as one line"
    return ""


def _check_image_files(samples: Sequence[Sample]) -> None:
    wrong = [
        (sample, image, why)
        for sample in samples
        for image in sample.images
        if isinstance(image, Path) and (why := why_no_file(image))
    ]
    if wrong:
        (first, image, why), more = wrong[0], len(wrong) - 1
        others = f" (and {more} more lines name images that are not there)" if more else ""
        raise InputError(
            f"{first.origin}: there is no image file {cut(str(image), 200)}{because(why)}{others};"
            " paths are relative to the folder of the JSONL file"
        )
