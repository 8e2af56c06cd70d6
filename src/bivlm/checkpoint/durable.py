"""Every change of the file system that a job makes: each file is the old one or the complete new one, and on
the disk before the next step relies on it.

    write to NAME.writing ─► fsync ─► rename to NAME        a file (write_text, copy_file, publish)
    fsync of the folder                                     its names (sync_folder)

docs/trust.md has the order in which a job calls them, and tests/reliability checks every prefix of it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bivlm.errors import InputError

WRITING = ".writing"  # ends the name of a file that is not complete yet

# what the system says about a disk or folder that cannot be written, and what the user can do
_REMEDIES = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EFBIG: "a file is larger than this process or file system allows (ulimit -f); raise the limit",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "there is no permission; change it or choose another place",
    errno.EPERM: "there is no permission; change it or choose another place",
    errno.ENAMETOOLONG: "a file name would be too long; choose a shorter name",
    errno.EMFILE: "too many files are open (ulimit -n); raise the limit",
    errno.EIO: "the disk reports an error; check it",
    errno.ENOTDIR: "part of the path is a file; correct the path",
    errno.EBUSY: "a file or folder is in use, or a mount point; choose another place",
}
_OS_ERROR = re.compile(r"os error (\d+)")


def writing_name(path: Path) -> Path:
    """The name under which a file is written until it is complete."""
    return path.with_name(path.name + WRITING)


def write_text(path: Path, content: str) -> None:
    """Write a text file: under its name is always either the old one or the complete new one."""
    temporary = writing_name(path)
    temporary.write_text(content, encoding="utf-8")
    publish(temporary, path)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content: under the target's name is always nothing, the old one, or the complete copy."""
    temporary = writing_name(target)
    shutil.copyfile(source, temporary)
    publish(temporary, target)


def publish(temporary: Path, path: Path) -> None:
    """Give a completely written file its name, after its content is on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk. A file system that cannot do this for folders is left as it is."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def system_error(message: str, path: Path) -> OSError:
    """The OSError that a library described in words ("… (os error 28)"); EIO if it names no number."""
    found = _OS_ERROR.search(message)
    number = int(found.group(1)) if found else errno.ENOSPC if "No space left" in message else errno.EIO
    return OSError(number, os.strerror(number), str(path))


@contextmanager
def write_errors_explained(out: Path) -> Iterator[None]:
    """Turn a failure to write below `out` into InputError: what is in the way and what to do. What is
    complete stays, so the same command continues.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        where = "" if error.filename is None or Path(error.filename) == out else f" ({error.filename})"
        raise InputError(
            f"{out} cannot be written{where}: {_REMEDIES[error.errno]}, then run the same command again; it"
            " continues after the last finished unit"
        ) from error
