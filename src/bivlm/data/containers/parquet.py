"""Parquet files, as the hub stores data sets."""

from __future__ import annotations

from pathlib import Path

from bivlm.data.containers.arrow import load_files, rows_of
from bivlm.data.containers.base import Container, Opened, Rows, begins_with, split_in_name

SUFFIX = ".parquet"
MAGIC = b"PAR1"


def parquet_of(files: list[Path], name: str, folder: Path) -> Rows:
    """The rows of parquet files together. Raises InputError for damaged ones, or if their columns differ."""
    return rows_of(load_files("parquet", files, name), name, folder)


PARQUET = Container(
    name="parquet",
    what="a file; of the split that its name says (test-00000-of-00001.parquet), if it says one",
    reads=lambda path: path.is_file() and (path.suffix.lower() == SUFFIX or begins_with(path, MAGIC)),
    open=lambda path: Opened(
        "parquet", {split_in_name(path): lambda: parquet_of([path], path.name, path.parent)}
    ),
)
