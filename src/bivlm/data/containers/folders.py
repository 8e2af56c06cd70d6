"""Folders: images with their metadata, a clone of a data set from the hub, data files for each split, images
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bivlm.data.containers.base import SPLITS, WHOLE, Container, Opened, Rows, split_in_name
from bivlm.data.containers.json_file import opened
from bivlm.data.containers.json_lines import is_one_document, lines_of
from bivlm.data.containers.parquet import SUFFIX, parquet_of
from bivlm.data.containers.tables import SUFFIXES, table_of
from bivlm.data.places import IMAGE_SUFFIXES
from bivlm.errors import InputError, cut

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
NO_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "config.json", "package.json")
MOST_FILES = 2_000_000  # that a folder is searched for


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _open_metadata(folder: Path) -> Opened:
    inner = {place.name: found for place in _folders(folder) if (found := _metadata(place)) is not None}
    own = _metadata(folder)
    files = inner or {WHOLE: own}
    return Opened("image folder", {split: _read(found, folder) for split, found in files.items() if found})


def _has_metadata(folder: Path) -> bool:
    return folder.is_dir() and any(_metadata(place) for place in (folder, *_folders(folder)))


def _folders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _read(file: Path, source: Path) -> Callable[[], Rows]:
    """The rows of one data file of the folder `source`."""
    name = (Path(source.name) / file.relative_to(source)).as_posix()

    def rows() -> Rows:
        if file.suffix.lower() == SUFFIX:
            return parquet_of([file], name, file.parent)
        if file.suffix.lower() in SUFFIXES:
            return table_of(file, name)
        if not is_one_document(file):
            return lines_of(file, name)
        splits = opened(file, name).splits
        if WHOLE not in splits:
            raise InputError(f"{file} has the splits {', '.join(splits)}; give the file itself")
        return splits[WHOLE]()

    return rows


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(_inside(folder, (SUFFIX,)))


def _inside(folder: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    """The files with these endings anywhere in a folder, without hidden folders. Raises InputError for a
    folder of more than MOST_FILES files.
    """
    for seen, path in enumerate(folder.rglob("*")):
        if seen == MOST_FILES:
            raise InputError(
                f"{folder} holds over {MOST_FILES} files; give the data file, or a folder inside"
            )
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            yield path


def _open_clone(folder: Path) -> Opened:
    """The parquet files of a folder by split. InputError if it holds several configurations."""
    splits: dict[str, list[Path]] = {}
    configurations: set[str] = set()
    for file in _parquet_files(folder):
        above = file.relative_to(folder).parent.parts
        named = [part for part in above if part.removeprefix("partial-") in SPLITS]
        split = named[-1].removeprefix("partial-") if named else split_in_name(file)
        splits.setdefault(split, []).append(file)
        configurations.add("/".join(part for part in above if part not in named and part != "data"))
    if len(configurations) > 1:
        names = sorted(name or "." for name in configurations)
        raise InputError(
            f"{folder} holds several data sets ({cut(', '.join(names), 200)}); give the folder of one of"
            f" them, such as {folder / names[-1]}"
        )
    if len(splits) > 1 and WHOLE in splits:
        splits["other"] = splits.pop(WHOLE)
    return Opened("parquet", {split: _later(files, split, folder) for split, files in splits.items()})


def _later(files: list[Path], split: str, folder: Path) -> Callable[[], Rows]:
    return lambda: parquet_of(files, f"{folder.name}/{split}".rstrip("/"), folder)


def _data_files(folder: Path) -> list[Path]:
    """The data files right in a folder; of questions and annotations the questions."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (*JSON_SUFFIXES, *SUFFIXES) and path.name not in NO_DATA and path.is_file()
    ]
    questions = [path for path in files if "question" in path.name.lower()]
    return questions if questions and len(questions) < len(files) else files


def _open_files(folder: Path) -> Opened:
    files = _data_files(folder)
    if len(files) == 1:
        return Opened(_kind(files[0]), {WHOLE: _read(files[0], folder)})
    by_split = {split_in_name(path): path for path in files}
    if len(by_split) < len(files) or WHOLE in by_split:
        names = ", ".join(path.name for path in files)
        raise InputError(
            f"{folder} holds {len(files)} data files ({cut(names, 200)}); give one of them, such as"
            f" {files[0]}"
        )
    return Opened(_kind(files[0]), {split: _read(path, folder) for split, path in by_split.items()})


def _kind(file: Path) -> str:
    return f"folder with {file.suffix.lower().removeprefix('.')} files"


def _open_images(folder: Path) -> Opened:
    found = sorted(_inside(folder, IMAGE_SUFFIXES))
    first = {path.relative_to(folder).parts[0] for path in found}
    inner = {name: [path for path in found if path.relative_to(folder).parts[0] == name] for name in first}
    splits = inner if first and all(name in SPLITS for name in first) else {WHOLE: found}
    return Opened("images", {split: _listed(paths, folder) for split, paths in sorted(splits.items())})


def _listed(paths: list[Path], folder: Path) -> Callable[[], Rows]:
    names = [path.relative_to(folder).as_posix() for path in paths]
    return lambda: Rows(
        folder.name,
        folder,
        len(names),
        lambda row: {"image": names[row]},
        lambda row: f"{folder.name}/{names[row]}",
    )


def _open_nothing(folder: Path) -> Opened:
    raise InputError(
        f"{folder} holds no data: neither {METADATA[0]} nor parquet, JSON or CSV files nor images nor a"
        " Hugging Face data set saved on disk (datasets' save_to_disk)"
    )


FOLDER = Container(
    name="image folder",
    what="images with metadata.jsonl, metadata.csv or metadata.parquet; a split is a folder inside",
    reads=_has_metadata,
    open=_open_metadata,
)
CLONE = Container(
    name="folder of parquet files",
    what="a clone of a data set from the hub; splits by the names of files or folders",
    reads=lambda path: path.is_dir() and bool(next(iter(_inside(path, (SUFFIX,))), None)),
    open=_open_clone,
)
FILES = Container(
    name="folder of data files",
    what="one JSON, JSONL, CSV or TSV file; or one for each split (train.json, test.json)",
    reads=lambda path: path.is_dir() and bool(_data_files(path)),
    open=_open_files,
)
IMAGES = Container(
    name="images",
    what="a folder of images alone; splits are folders inside that are called so",
    reads=lambda path: path.is_dir() and bool(next(iter(_inside(path, IMAGE_SUFFIXES)), None)),
    open=_open_images,
)
NOTHING = Container(name="folder", what="", reads=lambda path: path.is_dir(), open=_open_nothing)
