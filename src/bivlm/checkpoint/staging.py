"""Shards that replace others, all of them or none: they are written in a folder of their own, marked as
complete, and then moved into their places.

    <job>/tuned/<shard>, <record>, tuned.mark      written one after the other, the mark last
    <job>/tuned.mark                               all of them are in their places

A process that dies before the mark has changed nothing; one that dies later goes on moving when the work is
taken up again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bivlm.checkpoint.durable import sync_folder, write_text

MARK = "tuned.mark"


class Staging:
    """The replacements of shards in `out`, whose records are in the job's folder `job`."""

    def __init__(self, job: Path, out: Path) -> None:
        self.job, self.out = job, out
        self.folder = job / "tuned"
        self.is_open = False

    @property
    def is_done(self) -> bool:
        """Whether shards have been replaced."""
        return (self.job / MARK).exists()

    def begin(self) -> None:
        """Take what is written from now on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.is_open = True

    def place(self, final: Path) -> Path:
        """Where a file is written that belongs to `final` in the end."""
        return self.folder / final.name if self.is_open else final

    def commit(self) -> None:
        """Everything is written: put it in its place."""
        sync_folder(self.folder)  # what the mark promises is on the disk before it appears
        write_text(self.folder / MARK, "")
        sync_folder(self.folder)
        self.is_open = False
        self.take()

    def take(self) -> bool:
        """Move what is complete into its place, and delete what is not. Whether anything was complete."""
        complete = (self.folder / MARK).exists()
        if complete:
            for shard in sorted(self.folder.glob("*.safetensors")):
                shard.replace(self.out / shard.name)
            for record in sorted(self.folder.glob("model-*.json")):
                record.replace(self.job / record.name)
            for changed in (self.out, self.job):
                sync_folder(changed)
            write_text(self.job / MARK, "")
            sync_folder(self.job)
        shutil.rmtree(self.folder, ignore_errors=True)
        return complete

    def forget(self) -> None:
        """The shards are made again: none of them counts as replaced."""
        (self.job / MARK).unlink()
