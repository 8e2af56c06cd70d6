"""Hugging Face data sets that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bivlm.data.containers.arrow import read_errors, rows_of
from bivlm.data.containers.base import WHOLE, Container, Opened, Rows

if TYPE_CHECKING:
    import datasets

MARKS = (
    "dataset_dict.json",
    "dataset_info.json",
)  # the first for a set with splits, the second for one without


def is_saved(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _open(folder: Path) -> Opened:
    import datasets

    with read_errors(f"{folder} is an empty or damaged Hugging Face data set", "save it again"):
        loaded = datasets.load_from_disk(folder)
    if isinstance(loaded, datasets.Dataset):
        return Opened("saved data set", {WHOLE: lambda: rows_of(loaded, folder.name, folder)})
    return Opened(
        "saved data set",
        {str(split): _later(dataset, f"{folder.name}/{split}", folder) for split, dataset in loaded.items()},
    )


def _later(dataset: datasets.Dataset, name: str, folder: Path) -> Callable[[], Rows]:
    return lambda: rows_of(dataset, name, folder)


SAVED = Container(
    name="saved data set",
    what="a folder that `save_to_disk` of Hugging Face wrote",
    reads=lambda path: path.is_dir() and is_saved(path),
    open=_open,
)
