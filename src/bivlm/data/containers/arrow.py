"""Rows of a Hugging Face data set: they stay in a mapped file, and so do the bytes of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bivlm.data.containers.base import Rows, begins_with
from bivlm.data.fields import Record
from bivlm.errors import InputError, cut

if TYPE_CHECKING:
    import datasets
    import pyarrow

LFS = b"version https://git-lfs"


def rows_of(
    dataset: datasets.Dataset,
    name: str,
    folder: Path,
    origin: Callable[[int], str] | None = None,
    *,
    empty_is_null: bool = False,
    bare_base64: bool = False,
) -> Rows:
    """The rows of a data set. Names of classes replace their numbers; with `empty_is_null`, empty texts are
    missing values.
    """
    import datasets

    stored = dataset.with_format("arrow")
    classes = {
        column: feature.names
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel) and feature.names
    }

    def read(row: int) -> Record:
        table: Any = stored[row : row + 1]
        record = {column: value_at(table[column].chunk(0), 0) for column in table.column_names}
        for column, names in classes.items():
            number = record[column]
            if isinstance(number, int) and 0 <= number < len(names):
                record[column] = names[number]
        return (
            {key: None if value == "" else value for key, value in record.items()}
            if empty_is_null
            else record
        )

    return Rows(
        name, folder, len(dataset), read, origin or (lambda row: f"{name}:{row}"), bare_base64=bare_base64
    )


def value_at(array: pyarrow.Array, place: int) -> Any:
    """A value of an Arrow array as Python has it; binary values are views of the mapped file (memoryview),
    everything else is copied.
    """
    import pyarrow

    types, kind = pyarrow.types, array.type
    if array[place].as_py() is None if not types.is_nested(kind) else not array[place].is_valid:
        return None
    if types.is_struct(kind):
        return {kind.field(k).name: value_at(array.field(k), place) for k in range(kind.num_fields)}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        values = array[place].values
        return [value_at(values, index) for index in range(len(values))]
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _in_place(array, place, 8 if types.is_large_binary(kind) else 4)
    return array[place].as_py()


def _in_place(array: pyarrow.Array, place: int, width: int) -> memoryview:
    """A value of a binary array as a view of its buffer (`array[place].as_buffer()` copies it); `width` is
    the bytes of an offset.
    """
    _, offsets, data = array.buffers()
    numbers = memoryview(offsets).cast("B").cast("q" if width == 8 else "i")
    start, end = numbers[array.offset + place : array.offset + place + 2]
    return memoryview(data)[start:end]


@contextmanager
def read_errors(what: str, advice: str) -> Iterator[None]:
    """Turn what `datasets` and its readers raise on damaged files into InputError, with the first cause."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (
        DatasetsError,
        pyarrow.ArrowException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,  # a set without rows has no file to begin with
    ) as error:
        if isinstance(error, InputError):
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise InputError(f"{what} ({cut(said, 200)}); {advice}") from error


def load_files(kind: str, files: list[Path], what: str, **options: Any) -> datasets.Dataset:
    """The data set in local files, kept in the cache of `datasets` as Arrow. `kind` is parquet or csv. Raises
    InputError, with the first cause, for files that cannot be read.
    """
    import glob

    import datasets

    places = [str(file.resolve()) for file in files]
    chained = next((place for place in places if "::" in place or "://" in place), None)
    if chained is not None:  # `datasets` would take it for an address
        raise InputError(f"{cut(chained, 200)} has '::' or '://' in its name; rename it")
    pointer = next((place for place in places if begins_with(Path(place), LFS)), None)
    if pointer is not None:
        raise InputError(f"{cut(pointer, 200)} is a pointer of git-lfs; fetch its content with: git lfs pull")
    with read_errors(f"{what} cannot be read", "replace it, or write it again"), quiet():
        loaded = datasets.load_dataset(
            kind, data_files=[glob.escape(place) for place in places], split="train", **options
        )
    assert isinstance(loaded, datasets.Dataset)
    return loaded


@contextmanager
def quiet() -> Iterator[None]:
    """No messages of `datasets` inside, and no progress bars unless a terminal watches."""
    import sys

    import datasets

    logs, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if not (sys.stderr is not None and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(logs)
        if bars:
            datasets.enable_progress_bars()
