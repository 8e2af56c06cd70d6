"""Jobs in child processes that are killed, and the same job again: what must come out is known beforehand."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from bivlm.errors import InputError
from bivlm.job.run import quantize

FAILED, REFUSED = 1, 2


def start(job: Callable[[], object], around: AbstractContextManager[Any] | None = None) -> int:
    """Run `job` in a fork of this process; returns its process id. Its exit code is 0, REFUSED for
    InputError, or FAILED.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork next to idle threads
        child = os.fork()
    if child:
        return child
    status = FAILED
    try:
        torch.set_num_threads(1)  # the parent's pool of threads does not exist here
        with around or nullcontext():
            job()
        status = 0
    except InputError as error:
        print(f"refused: {error}", file=sys.stderr)
        status = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def in_child(job: Callable[[], object], around: AbstractContextManager[Any] | None = None) -> int:
    """Run `job` in a fork of this process, to its end: its status as os.waitpid gives it."""
    return os.waitpid(start(job, around), 0)[1]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Killed:
    """One job that is killed at every moment and continued, `before` being what lies at OUT at first."""

    def __init__(
        self, work: Path, source: Path, settings: Mapping[str, Any], before: Path | None = None
    ) -> None:
        self.work, self.source, self.settings, self.before = work, source, dict(settings), before
        work.mkdir(exist_ok=True)
        self.expected = content(quantize(source, work / "expected", **self.settings))

    def fresh_out(self) -> Path:
        """An empty folder with OUT in it as it was before the job: absent, or another packed model."""
        room = self.work / "room"
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir()
        if self.before is not None:
            shutil.copytree(self.before, room / "out")
        return room / "out"

    def run(self, out: Path, around: AbstractContextManager[Any] | None = None) -> int:
        """The job in a child process; `before` there means that it replaces."""
        settings = {**self.settings, "overwrite": self.before is not None}
        return in_child(lambda: quantize(self.source, out, **settings), around)

    def check_continues(self, out: Path) -> None:
        """The same command ends with the same bytes and leaves nothing else; what OUT held is there until
        then.
        """
        if self.before is not None:
            kept = [folder for folder in (out, out.with_name(".out.bivlm-old")) if folder.exists()]
            whole = [content(folder) for folder in kept]
            known = (content(self.before), self.expected)
            assert any(set(one.items()) >= set(want.items()) for one in whole for want in known), "lost"
        assert self.run(out) == 0
        assert content(out) == self.expected
        assert [path.name for path in out.parent.iterdir()] == ["out"]
