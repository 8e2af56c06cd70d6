"""Hugging Face data sets that `save_to_disk` wrote, with the columns image or images, question, and answer or
answers.

The images stay where they are: a sample holds a view of the mapped Arrow file, so a set that is larger than
memory can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bivlm.data.files import because, why_no_file
from bivlm.data.images import open_undecoded
from bivlm.data.places import find_image
from bivlm.data.rows import text_field, to_sample
from bivlm.errors import InputError, cut
from bivlm.types import Picture, Sample

if TYPE_CHECKING:
    import datasets
    import pyarrow

TEXTS = ("question", "answer", "answers", "system")  # columns
MARKS = (
    "dataset_dict.json",
    "dataset_info.json",
)  # the first for a set with splits, the second for one without


def is_saved_dataset(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def read_saved(
    folder: Path,
    split: str | None,
    choose: Callable[[int], Sequence[int]],
    *,
    answers_required: bool,
    root: Path | None = None,
) -> list[Sample]:
    """The samples of the rows that `choose` names, given how many there are. With `root`, image paths must
    lie in it; images whose bytes the set holds are no paths.

    Raises InputError if the package `datasets` is missing, the folder is damaged, or a split, a column or a
    value is invalid.
    """
    dataset = _load(folder, split)
    name = f"{folder.name}/{split}" if (folder / MARKS[0]).is_file() else folder.name
    if len(dataset) == 0:
        raise InputError(f"{name} holds no samples")
    pictures = "images" if "images" in dataset.column_names else "image"
    for column in (pictures, "question"):
        if column not in dataset.column_names:
            raise InputError(f"{name} has no column '{column}' (it has {', '.join(dataset.column_names)})")
    table = cast("pyarrow.Table", dataset.with_format("arrow")[:])
    rows = choose(len(dataset))
    texts = [column for column in TEXTS if column in dataset.column_names]
    records = table.select(texts).take(list(rows)).to_pylist()
    read_images = _image_reader(dataset, pictures, table[pictures], folder, name, root)
    return [
        to_sample(record, read_images(row), f"{name}:{row}", answers_required=answers_required)
        for row, record in zip(rows, records, strict=True)
    ]


def _load(folder: Path, split: str | None) -> datasets.Dataset:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise InputError(
            f"{folder} is a Hugging Face data set, and reading it needs the package datasets: pip install"
            " 'bivlm[data]'"
        ) from error
    try:
        loaded = datasets.load_from_disk(folder)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
    ) as error:  # IndexError: a set without rows has no file to begin with
        raise InputError(
            f"{folder} is an empty or damaged Hugging Face data set"
            f" ({str(error).strip().partition(chr(10))[0]}); save it again"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if split not in loaded:
        raise InputError(split_wanted(folder, list(map(str, loaded)), split))
    return loaded[split]


def split_wanted(folder: Path, splits: Sequence[str], split: str | None) -> str:
    """The error message for a set with parts when no valid part was named."""
    asked = "" if split is None else f" and no {split!r}"
    return (
        f"{folder} has the splits {', '.join(splits)}{asked}; give the folder of one of them, such as"
        f" {folder / splits[0]}"
    )


def _image_reader(
    dataset: datasets.Dataset,
    name: str,
    column: pyarrow.ChunkedArray,
    folder: Path,
    shown: str,
    root: Path | None,
) -> Callable[[int], Picture | tuple[Picture, ...]]:
    """The function that gives a row's image, or images if the column is called so: opened and undecoded if
    the set contains its bytes, a path if it names a file.
    """
    import datasets
    import pyarrow

    feature: Any = dataset.features[name]
    one, kind = feature, column.type
    if name == "images":
        one, kind = getattr(feature, "feature", None), getattr(kind, "value_type", pyarrow.null())
    wanted = "lists of datasets.Image()" if name == "images" else "datasets.Image()"

    def read(stored: Any, origin: str) -> Picture:
        if isinstance(one, datasets.Image):
            encoded, path = _bytes_in_place(stored.field("bytes")), stored.field("path")[0].as_py()
            if encoded is not None:
                return open_undecoded(pyarrow.BufferReader(encoded), origin)
        else:
            path = text_field({name: stored[0].as_py()}, name, origin)
        if not path:
            raise InputError(f"{origin}: there is no image")
        image = find_image(path, origin, folder, root)
        if isinstance(image, Path) and (why := why_no_file(image)):
            raise InputError(f"{origin}: there is no image file {cut(str(image), 200)}{because(why)}")
        return image

    def images_at(row: int) -> Picture | tuple[Picture, ...]:
        stored, origin = column.slice(row, 1).chunk(0), f"{shown}:{row}"
        if name == "image":
            return read(stored, origin)
        several = stored.flatten()
        return tuple(read(several.slice(index, 1), origin) for index in range(len(several)))

    if (
        not isinstance(one, datasets.Image)
        and not pyarrow.types.is_string(kind)
        and not pyarrow.types.is_large_string(kind)
    ):
        raise InputError(f"{shown}: the column '{name}' holds {feature}; cast it to {wanted} or to paths")
    return images_at


def _bytes_in_place(one: Any) -> pyarrow.Buffer | None:
    """The value of a binary array of length one as a view of its buffer (`one[0].as_buffer()` copies it);
    None for null.
    """
    if one.null_count:
        return None
    _, offsets, data = one.buffers()
    start, end = memoryview(offsets).cast("B").cast("i")[one.offset : one.offset + 2]
    return data.slice(start, end - start)
