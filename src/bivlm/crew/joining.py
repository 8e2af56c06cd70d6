"""How a process finds its crew: by the environment that torchrun gives it."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from bivlm.crew import ALONE, Crew
from bivlm.errors import InputError, cut

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE, TIMEOUT = 600.0, "BIVLM_CREW_TIMEOUT"  # seconds without a sign of life


def join() -> Crew:
    """The crew that the environment names; ALONE if it names none, or a crew of one.

    Raises InputError if the environment is incomplete or contradicts itself, or if the processes do not come
    together.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" and os.environ.get("RANK", "0") == "0":
        return ALONE
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        there = [name for name in NEEDED if name not in missing]
        raise InputError(
            f"the environment has {', '.join(there)} and no {', '.join(missing)}; start all processes with"
            " torchrun, or take them out of the environment to run one"
        )
    rank, size, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not 0 <= rank < size:
        raise InputError(f"RANK is {rank} and WORLD_SIZE {size}; ranks are 0 … WORLD_SIZE - 1")
    return _joined(rank, size, os.environ["MASTER_ADDR"], port, _patience())


def _joined(rank: int, size: int, address: str, port: int, patience: float) -> Crew:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        raise InputError(
            "this torch has no torch.distributed with gloo, which several processes need; run one"
        )
    from bivlm.crew.joined import Joined
    from bivlm.crew.watch import Watch

    # torchrun keeps the store itself; without it rank 0 does
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    run = "/".join(os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
    timeout = timedelta(seconds=patience)

    def store(is_first: bool) -> Store:
        made = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            address, port, None, is_first, timeout, wait_for_workers=False
        )
        return dist.PrefixStore(f"bivlm/{run}", made)  # pyright: ignore[reportPrivateImportUsage]

    try:
        shared = store(rank == 0 and not kept)
        shared.set(f"here/{rank}", "1")
        shared.wait([f"here/{other}" for other in range(size)], timeout)
        return Joined(rank, size, shared, Watch(store(False), rank, size, patience))
    except RuntimeError as error:
        text = str(error)
        if "EADDRINUSE" in text or "address already in use" in text.lower():
            raise InputError(
                f"port {port} of {address} is in use; give another (torchrun --master-port)"
            ) from error
        raise InputError(
            f"rank {rank} did not find all {size} processes at {address}:{port} within {patience:g} s; are"
            f" all of them running, and can they reach each other? ({TIMEOUT} sets how long it waits)"
        ) from error


def _number(name: str) -> int:
    text = os.environ[name]
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name} is {cut(text)!r} in the environment; it has to be a number") from error


def _patience() -> float:
    text = os.environ.get(TIMEOUT, str(PATIENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{TIMEOUT} is {cut(text)!r}; give seconds")
    return seconds
