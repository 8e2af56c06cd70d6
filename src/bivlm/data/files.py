"""What a path leads to, told in words, and the folder that paths are confined to."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from bivlm.errors import InputError, cut

MISSING = "does not exist"
KINDS = (
    (stat.S_ISDIR, "is a folder, and no file"),
    (stat.S_ISFIFO, "is a pipe, and no file"),
    (stat.S_ISCHR, "is a device, and no file"),
    (stat.S_ISBLK, "is a device, and no file"),
    (stat.S_ISSOCK, "is a socket, and no file"),
)


def confined(path: Path, root: Path, origin: str) -> Path:
    """The path with all links followed, which must lie in `root`. Raises InputError, naming `origin`, if it
    does not.
    """
    try:
        place, limit = path.resolve(), root.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{origin}: the image {cut(str(path), 200)} {_said(error)}") from error
    if not place.is_relative_to(limit):
        raise InputError(
            f"{origin}: the image {cut(str(path), 200)} lies outside {root}, the folder given with"
            " --data-root; put it in there, or give another folder"
        )
    return place


def check_root(root: str | Path | None) -> Path | None:
    """The folder of `data_root`. Raises InputError if it is none."""
    if root is None:
        return None
    wrong = why_no_folder(Path(root))
    if wrong:
        raise InputError(f"--data-root {cut(str(root), 200)} {wrong}; give the folder that holds the images")
    return Path(root)


def why_no_file(path: Path) -> str | None:
    """None for a regular file, links followed; else what the path is, as the rest of a sentence."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        return _said(error)
    if stat.S_ISREG(mode):
        return None
    return next((words for is_kind, words in KINDS if is_kind(mode)), "is no regular file")


def file_digest(path: Path, origin: str) -> str:
    """SHA-256 of an image file's bytes. Raises InputError, naming `origin`, for what is no file or cannot be
    read.
    """
    wrong = why_no_file(path)
    if not wrong:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
    raise InputError(f"{origin}: the image {cut(str(path), 200)} {wrong}")


def why_no_folder(path: Path) -> str | None:
    """None for a folder, links followed; else what is wrong with the path."""
    try:
        return None if stat.S_ISDIR(path.stat().st_mode) else "is no folder"
    except (OSError, ValueError) as error:
        return _said(error)


def because(why: str) -> str:
    """What `why_no_file` said as an addition to "there is no file …"; "" if it says the same."""
    return "" if why == MISSING else f": it {why}"


def _said(error: Exception) -> str:
    """What a path's error means, in words."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MISSING
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be reached ({error.strerror})"
    return f"is no path ({cut(str(error), 200)})"
