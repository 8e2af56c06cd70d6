"""Crews of processes on this machine: forks of this process, with the environment that torchrun would give
them.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bivlm.crew import Crew
from bivlm.crew.joining import join

FAILED = 70


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code, minus the signal that killed it, and what it said."""

    code: int
    said: str


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def in_processes(
    size: int, job: Callable[[int], int | None], more: Mapping[str, str] | None = None
) -> list[Ended]:
    """Run `job`, which is given its rank, in as many forks of this process; its result is the exit code."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(size)]
        children = [
            _start(job, rank, {**environment(rank, size, port), **(more or {})}, files[rank])
            for rank in range(size)
        ]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return [Ended(code, file.read_text()) for code, file in zip(codes, files, strict=True)]


def in_crew(size: int, job: Callable[[Crew], Any], more: Mapping[str, str] | None = None) -> list[Ended]:
    """Run `job` in every process of a crew; all have to end well."""

    def own(_: int) -> None:
        with join() as crew:
            job(crew)

    ended = in_processes(size, own, more)
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    return ended


def _start(job: Callable[[int], int | None], rank: int, variables: Mapping[str, str], said: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork next to idle threads
        child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        with said.open("w") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w")
        os.environ.update(variables)
        torch.set_num_threads(1)  # the parent's pool of threads does not exist here
        code = job(rank) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
