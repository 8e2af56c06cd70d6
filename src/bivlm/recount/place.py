"""Where a checkpoint's files are: on the disk, or in a repository of the Hugging Face hub, of which only the
ranges of bytes that are asked for are fetched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bivlm.errors import InputError, cut
from bivlm.recount.stored import HEADER_LIMIT

HUB_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
BLOCK = 1 << 19  # bytes that are fetched from the hub at a time
DEPTH = 2  # folders inside folders are looked at: GGUF repositories have one for each variant


@dataclass(frozen=True)
class Place:
    """`files` has the bytes of every file by its path in the place; `open_file` opens one of them. `chosen`
    is the one file that was asked for, if it was one; `faults` are the exceptions that reading may raise.
    """

    name: str
    files: Mapping[str, int]
    open_file: Callable[[str], BinaryIO]
    chosen: str | None = None
    faults: tuple[type[Exception], ...] = (OSError,)

    @contextmanager
    def opened(self, file: str) -> Iterator[BinaryIO]:
        """An open file of the place. Raises InputError when it cannot be read."""
        try:
            with self.open_file(file) as opened:
                yield opened
        except self.faults as error:
            raise InputError(f"{self.name}: {file} cannot be read ({_cause(error)})") from error

    def small(self, file: str) -> bytes:
        """All of a file that is no longer than a header may be."""
        if self.files[file] > HEADER_LIMIT:
            raise InputError(f"{self.name}: {file} has {self.files[file]:,} bytes, more than are read")
        with self.opened(file) as opened:
            return opened.read(HEADER_LIMIT)


def place_of(given: str | Path) -> Place:
    """The place of a local file, a local folder, or OWNER/NAME (OWNER/NAME@REVISION) of the hub.

    Raises InputError if it is none of them, or cannot be reached.
    """
    path = Path(given).expanduser()
    if path.is_file():
        folder = path.parent
        return Place(str(given), _listed(folder, depth=0), lambda name: (folder / name).open("rb"), path.name)
    if path.is_dir():
        return Place(str(given), _listed(path, DEPTH), lambda name: (path / name).open("rb"))
    found = HUB_NAME.fullmatch(str(given))
    if path.exists() or found is None:
        raise InputError(
            f"{cut(str(given))} is no file, no folder, and no repository of the hub (OWNER/NAME) either"
        )
    return _hub(found["repo"], found["revision"])


def _listed(folder: Path, depth: int) -> dict[str, int]:
    """Bytes of the files of a folder, and of the folders in it, by their relative paths."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({_cause(error)})") from error
    found = {path.name: path.stat().st_size for path in inside if path.is_file()}
    for path in inside if depth > 1 else ():
        if path.is_dir() and not path.name.startswith("."):
            found |= {f"{path.name}/{name}": size for name, size in _listed(path, depth - 1).items()}
    return found


def _hub(repo: str, revision: str | None) -> Place:
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or httpx2, as this version has it
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.hf_api import RepoFile

    faults = (OSError, HTTPError)
    try:
        tree = HfApi().list_repo_tree(repo, recursive=True, revision=revision)
        files = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    except RepositoryNotFoundError as error:
        raise InputError(
            f"there is no file or folder {repo}, and the hub has no such repository (or it is private: log in"
            " with `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repo} has no revision {cut(str(revision))}") from error
    except faults as error:
        raise InputError(
            f"there is no file or folder {repo}, and the hub could not be reached for it"
            f" ({type(error).__name__}); give a local folder"
        ) from error
    system = HfFileSystem()

    def open_file(name: str) -> BinaryIO:
        opened: Any = system.open(f"{repo}/{name}", "rb", revision=revision, cache_type="none")
        return io.BufferedReader(opened, BLOCK)

    return Place(repo if revision is None else f"{repo}@{revision}", files, open_file, faults=faults)


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
