"""Where a job writes its result, so that nothing is lost: in OUT itself while OUT is free, otherwise in a
folder next to it that takes OUT's place at the very end, by renames.

    OUT                        the result; while OUT is free, the unfinished work as well
    .OUT.bivlm-new             the unfinished work of a job that replaces OUT
    .OUT.bivlm-old             what OUT was, from the first rename until it is deleted
    .OUT.bivlm-lock            held by the process that works on OUT

    replace:  OUT ─► .OUT.bivlm-old,  .OUT.bivlm-new ─► OUT,  then the old one is deleted

At every moment the old result or the new one is complete under one of these names. A job that dies between
the renames is put right by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock, Timeout

from bivlm.checkpoint.companions import ATTRIBUTES, CARD, SOURCE_CARD
from bivlm.checkpoint.durable import WRITING, sync_folder
from bivlm.checkpoint.modules import is_packed
from bivlm.checkpoint.seal import read_seal
from bivlm.checkpoint.shards import INDEX_NAME, read_json
from bivlm.errors import InputError

JOB_FOLDER = ".bivlm-job"
REPORT_NAME = "bivlm_report.json"
CALIBRATION_NAME = "bivlm_calibration.json"  # the questions of the calibration, by digest
PICTURE_NAME = "bivlm_picture.png"  # what `bivlm show` puts on the card
_CARD_FILES = {CARD, SOURCE_CARD, ATTRIBUTES, PICTURE_NAME}
_OURS = {"config.json", INDEX_NAME, REPORT_NAME, CALIBRATION_NAME, *_CARD_FILES}
# what bivlm copied from a source into a folder of format 1, which has no list of its files: these names, for
# anything else may be the user's
_COPIED = (
    *("tokenizer*.json", "*processor*.json", "generation_config.json", "chat_template.*"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "LICENSE*"),
)


class Place:
    """The names around OUT. Raises InputError for an OUT that can never be one."""

    def __init__(self, out: Path, source: Path) -> None:
        # the absolute name, links not followed: OUT's neighbours are the neighbours of this name
        self.out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow links
        self.new = self.out.with_name(f".{self.out.name}.bivlm-new")
        self.old = self.out.with_name(f".{self.out.name}.bivlm-old")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{out} is a file; OUT is a folder for the quantized model")
        here, model = self.out.resolve(), source.resolve()
        if here == model:
            raise InputError(f"OUT is the model's own folder {out}; choose another folder")
        if model.is_relative_to(here):
            raise InputError(f"OUT {out} contains the model {source}; choose another folder")

    def repair(self) -> None:
        """Finish what a process left that died while it replaced OUT. Only with the lock."""
        if not self.old.is_dir():
            return
        if not self.out.exists():
            self.old.replace(self.out)
        elif is_bivlm_folder(self.out) and not foreign_files(self.old):
            shutil.rmtree(self.old)
        sync_folder(self.out.parent)

    def check_replaceable(self) -> None:
        """InputError unless everything in OUT was written by bivlm and OUT can be renamed."""
        if self.out.is_symlink():
            raise InputError(
                f"{self.out} is a link to {self.out.resolve()}; --overwrite does not follow links: give that"
                " folder"
            )
        if os.path.ismount(self.out):
            raise InputError(
                f"{self.out} is a mount point, which cannot be replaced; give a folder inside it, or empty it"
            )
        if not is_bivlm_folder(self.out):
            raise InputError(
                f"{self.out} holds files that bivlm did not write; --overwrite replaces only folders that"
                " bivlm wrote: choose another folder"
            )
        foreign = foreign_files(self.out)
        if foreign:
            raise InputError(
                f"{self.out} holds {foreign[0]} ({len(foreign)} in all), which bivlm did not write; move it"
                " away, or choose another folder"
            )

    def replace(self) -> None:
        """Put the finished new folder in the place of OUT, and delete the old one afterwards."""
        sync_folder(self.new)
        if self.out.exists():
            self.check_replaceable()
            self.out.replace(self.old)
        self.new.replace(self.out)
        sync_folder(self.out.parent)
        if self.old.exists():
            shutil.rmtree(self.old)
            sync_folder(self.out.parent)


class PlaceLock:
    """The lock of a place, held by one process. InputError if another process has it.

    The file lies next to OUT, or in `inside` if that folder cannot be written; it goes away with the lock.
    """

    def __init__(self, place: Place, inside: Path) -> None:
        self._out, self._inside = place.out, inside
        self._held: FileLock | None = None

    def acquire(self) -> None:
        """Take the lock now. A lock file that its last holder deleted meanwhile does not count."""
        # before the lock's name is chosen: all processes must choose the same
        self._out.parent.mkdir(parents=True, exist_ok=True)
        beside = self._out.with_name(f".{self._out.name}.bivlm-lock")
        path = beside if os.access(self._out.parent, os.W_OK) else self._inside / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        while self._held is None:
            lock = FileLock(path, timeout=0)
            with path.open("a") as mine:
                try:
                    lock.acquire()
                except Timeout as error:
                    raise InputError(
                        f"another process is writing {self._out} right now; wait for it or choose another"
                        " folder"
                    ) from error
                if _is_still_at(path, mine.fileno()):
                    self._held = lock
                else:
                    lock.release()

    def release(self) -> None:
        """Give the lock back, and delete its file while it is still held."""
        if self._held is not None:
            Path(self._held.lock_file).unlink(missing_ok=True)
            self._held.release()
            self._held = None


def _is_still_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has this name: it may have been deleted, and another made, meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_bivlm_folder(folder: Path) -> bool:
    """Whether bivlm wrote this folder, finished or not."""
    if (folder / JOB_FOLDER).is_dir() and not (folder / JOB_FOLDER).is_symlink():
        return True
    return packed_config(folder) is not None


def packed_config(folder: Path) -> dict | None:
    """The config.json of a folder that bivlm packed; None for every other folder."""
    if not (folder / "config.json").is_file():
        return None
    try:
        config = read_json(folder / "config.json")
    except InputError:
        return None
    return config if is_packed(config) else None


def check_card(folder: Path, what: str) -> None:
    """InputError, before anything long, for a folder that bivlm did not pack, or that has no card to put
    `what` ("the picture") on.
    """
    if packed_config(folder) is None:
        raise InputError(f"{folder} is no folder that bivlm packed; --card puts {what} on the card of one")
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} has no {CARD} to put {what} on; copy or quantize it again")


def foreign_files(folder: Path) -> list[str]:
    """What lies in a folder that bivlm did not write there, by name."""
    try:
        seal = read_seal(folder)
    except InputError:
        seal = None
    listed: Collection[str] | None = None if seal is None or seal.version < 2 else seal.files
    return sorted(
        path.relative_to(folder).as_posix()
        for path in _files(folder)
        if not _is_ours(path.relative_to(folder).as_posix(), listed)
    )


def has_more_than_shards(folder: Path) -> bool:
    """Whether a folder holds anything besides shards and a job's own folder."""
    return not all(_is_shard(path.name.removesuffix(WRITING)) for path in _files(folder))


def _files(folder: Path) -> list[Path]:
    """Every file below a folder, links as themselves, without the job's own folder."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.name == JOB_FOLDER and not path.is_symlink():
            continue
        found += _files(path) if path.is_dir() and not path.is_symlink() else [path]
    return found


def _is_ours(name: str, listed: Collection[str] | None) -> bool:
    if name in _OURS or name.removesuffix(WRITING) in _OURS or _is_shard(name.removesuffix(WRITING)):
        return True
    if listed is not None:
        return name in listed or name.removesuffix(WRITING) in listed
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in _COPIED)


def _is_shard(name: str) -> bool:
    words = name.removesuffix(".safetensors").split("-")
    return name.endswith(".safetensors") and len(words) == 4 and words[0] == "model" and words[2] == "of"
