"""Signs of life: every rank counts in a store that all can read, once a second, and looks at the others.

A rank may compute for hours while the others wait for it, so no exchange has a limit of time. A rank whose
count stands still is gone: its machine, its process, or the network to it. A rank that ends with an error
leaves it in the place of its count.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from bivlm.crew import RankGone, named

PERIOD = 1.0  # seconds between two signs of life
QUIET = 4.0  # seconds without one, after an exchange has failed: that rank is gone
LONGEST = 3 * QUIET  # seconds of looking for who is gone
ENDED = 2  # exit code

_ERROR = b"!"


class Watch:
    """The signs of life of all ranks in `store`, a store client of its own. A rank that has given none for
    `patience` seconds ends this process with one line.
    """

    def __init__(self, store: Any, rank: int, size: int, patience: float) -> None:
        self.store, self.rank, self.size, self.patience = store, rank, size, patience
        self.errors: dict[int, BaseException] = {}
        self.gone: list[int] = []  # as `what_happened` found them
        self._ended: bytes | None = None
        self._stop = threading.Event()
        now = time.monotonic()
        self._heard: dict[int, tuple[bytes, float]] = dict.fromkeys(range(size), (b"", now))
        self._reached = now  # when the store was
        self._thread = threading.Thread(target=self._run, name="bivlm-crew", daemon=True)

    def start(self) -> None:
        self.store.set(_key(self.rank), b"0")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def leave_error(self, error: BaseException) -> None:
        """Put an error in the place of this rank's sign of life, and stay until the others have seen it."""
        self._ended = _ERROR + pickled(error)
        with suppress(RuntimeError):  # without a store the others will miss this rank
            self.store.set(_key(self.rank), self._ended)
            time.sleep(2 * PERIOD)

    def what_happened(self) -> BaseException | None:
        """After an exchange has failed: the error of another rank, or who is gone; None if all are there."""
        began = time.monotonic()
        while time.monotonic() - began < LONGEST:
            if self.errors:
                return self.errors[min(self.errors)]
            self.gone = self.silent_for(QUIET)
            if not self.gone and self._storeless() > QUIET:
                self.gone = [0]  # which has the store; nobody can be heard of without it
            if self.gone:
                return RankGone(told(self.gone))
            time.sleep(PERIOD / 5)
        return None

    def silent_for(self, seconds: float) -> list[int]:
        """The ranks that have given no sign of life for so long."""
        now = time.monotonic()
        return [
            rank
            for rank, (_, since) in self._heard.items()
            if rank != self.rank and now - since > seconds + self._storeless()
        ]

    def speaker(self, gone: list[int]) -> int:
        """The first rank that is left."""
        return min(set(range(self.size)) - set(gone), default=self.rank)

    def _storeless(self) -> float:
        """Seconds since the store was reached, beyond the usual."""
        return max(0.0, time.monotonic() - self._reached - 2 * PERIOD)

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(PERIOD):
            count += 1
            try:
                self.store.set(_key(self.rank), self._ended or str(count).encode())
                found = self.store.multi_get([_key(other) for other in range(self.size)])
            except RuntimeError:
                if self._storeless() > self.patience:
                    self._end([0])
                continue
            now = self._reached = time.monotonic()
            for other, value in enumerate(found):
                if value.startswith(_ERROR) and other != self.rank:
                    self.errors.setdefault(other, unpickled(value[len(_ERROR) :]))
                if value != self._heard[other][0]:
                    self._heard[other] = (value, now)
            gone = self.silent_for(self.patience)
            if gone:
                self._end(gone)

    def _end(self, gone: list[int]) -> None:
        """The main thread may wait in an exchange forever: end the process here. What is written is whole."""
        if self._stop.is_set():
            return
        if self.rank == self.speaker(gone):
            print(f"bivlm: error: {told(gone, self.patience)}", file=sys.stderr, flush=True)
        os._exit(ENDED)


def told(gone: list[int], patience: float | None = None) -> str:
    """One line about ranks that are gone."""
    how = "ended" if patience is None else f"has not been heard of for {patience:g} s"
    if len(gone) > 1:
        how = how.replace("has", "have")
    return (
        f"{named(gone)} {how} (killed, out of memory, or the machine is lost); what is finished is kept, and"
        " the same command continues, also with another number of processes"
    )


def pickled(error: BaseException) -> bytes:
    """An error for another rank; its text alone if it cannot be pickled."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # an error of another package may do anything when it is pickled
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content


def unpickled(content: bytes) -> BaseException:
    return pickle.loads(content)


def _key(rank: int) -> str:
    return f"alive/{rank}"
