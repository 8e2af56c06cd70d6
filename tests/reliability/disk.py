"""File-system calls of a job, one by one: recorded, counted, or the last thing that a process does.

    with Recorder(folder) as calls: …        calls.events: what was called below the folder, in order
    with dies_at(17): …                      the process is killed before its 17th call, or in the midst of it

A call that writes has two moments at which a process can die: before it, and when half of it is written.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch

# what changes names or makes content durable: where it lives, and which arguments are paths
CALLS: dict[str, tuple[Any, int]] = {
    "mkdir": (os, 1),
    "rmdir": (os, 1),
    "unlink": (os, 1),
    "rename": (os, 2),
    "replace": (os, 2),
}
# what writes content
WRITES: dict[str, tuple[Any, int]] = {
    "write_text": (pathlib.Path, 0),
    "copyfile": (shutil, 1),
    "save_file": (safetensors.torch, 1),
}


@dataclass(frozen=True)
class Event:
    """One call: "mkdir", "rmdir", "unlink", "rename", "write", "sync" (of a file's content) or
    "sync_folder".
    """

    what: str
    path: Path
    target: Path | None = None


@dataclass
class Recorder:
    """The calls that change something below `root`, in their order."""

    root: Path
    events: list[Event] = field(default_factory=list)

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        with watched(self._seen):
            yield self

    def _seen(self, what: str, paths: list[Path], run: Callable[[], Any]) -> Any:
        result = run()
        if paths and paths[0].is_relative_to(self.root):
            self.events.append(Event(what, paths[0], paths[1] if len(paths) > 1 else None))
        return result


@contextmanager
def dies_at(number: int) -> Iterator[None]:
    """Kill this process at its `number`-th moment (from 1): before a call, or when half of it is written."""
    moments = 0

    def seen(what: str, paths: list[Path], run: Callable[[], Any]) -> Any:
        nonlocal moments
        moments += 1
        if moments == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = run()
        if what == "write":
            moments += 1
            if moments == number:
                os.truncate(paths[0], paths[0].stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    with watched(seen):
        yield


@contextmanager
def watched(seen: Callable[[str, list[Path], Callable[[], Any]], Any]) -> Iterator[None]:
    """Let `seen(what, paths, run)` make every call of CALLS, WRITES and fsync."""
    with ExitStack() as patches:
        for name, (module, count) in CALLS.items():
            patches.enter_context(_patched(module, name, seen, "rename" if count == 2 else name, count))
        for name, (module, place) in WRITES.items():
            patches.enter_context(_patched_write(module, name, seen, place))
        real = os.fsync

        def fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").resolve()
            seen("sync_folder" if path.is_dir() else "sync", [path], lambda: real(descriptor))

        patches.enter_context(mock.patch.object(os, "fsync", fsync))
        yield


def _patched(module: Any, name: str, seen: Any, what: str, count: int) -> Any:
    real = getattr(module, name)

    def call(*args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
        folder = None if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").resolve()
        paths = [Path(arg) if folder is None else folder / arg for arg in args[:count]]
        if dir_fd is not None:
            kwargs["dir_fd"] = dir_fd
        return seen(what, [absolute(path) for path in paths], lambda: real(*args, **kwargs))

    return mock.patch.object(module, name, call)


def _patched_write(module: Any, name: str, seen: Any, place: int) -> Any:
    real = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        path = absolute(args[place])
        return seen("write", [path], lambda: real(*args, **kwargs))

    return mock.patch.object(module, name, call)


def absolute(path: Any) -> Path:
    """The full name of a path, links not followed: the call is about the link itself."""
    return Path(os.path.abspath(path))  # noqa: PTH100
