"""A crew of several processes, by torch.distributed over gloo. What is sent lies in the processors' memory,
so nothing else is needed.

    an exchange:  one word of every rank (well or not, what it is about to do, how many bytes)
                  ─► the bytes, from each rank that has some to all others

The network between the processes has to be one that you trust: what arrives is unpickled.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from bivlm.crew import Crew, RankGone, Value
from bivlm.crew.message import from_bytes, to_bytes
from bivlm.crew.watch import QUIET, Watch, pickled, unpickled
from bivlm.errors import InputError
from bivlm.profile import part

EXCHANGE = "exchange"  # the part of a job's time, waiting for the others included
FOREVER = timedelta(days=365)  # a rank may compute for hours; watch.py says who is gone
BROKEN = "the connection to another process broke; the same command continues"
TOLD, TELLING = "told", timedelta(seconds=10)
_WELL, _ENDING = 0, 1


class Joined(Crew):
    """This process as a rank of a crew of `size`; `store` is what all share, `watch` the signs of life."""

    def __init__(self, rank: int, size: int, store: Any, watch: Watch) -> None:
        self.rank, self.size, self.error = rank, size, None
        self._store, self._watch = store, watch
        self._inside = False  # of an exchange: the others may wait for what will never come
        self._terminated = False
        self._before: dict[int, Any] = {}  # handlers of signals
        own = dist.PrefixStore("gloo", store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=FOREVER)
        watch.start()
        self._handle(signal.SIGTERM, self._on_sigterm)

    def agree(self) -> None:
        self._words("agree", 0)

    def each(self, value: Value, order: Sequence[int]) -> Iterator[Value]:
        with part(EXCHANGE):
            own = to_bytes(value) if self.rank in order else None
            sizes = self._words(f"each {list(order)}", 0 if own is None else len(own))
        for place, source in enumerate(order):
            with self._exchanging():
                found = self._sent(sizes[source], source, own)
            self._inside = place + 1 < len(order)  # the others wait for the rest
            yield value if source == self.rank else from_bytes(found)

    def move(self, value: Value, source: int, to: int) -> Value | None:
        if source == to or self.rank not in (source, to):
            return value if self.rank == to else None
        with self._exchanging():
            if self.rank == source:
                content = to_bytes(value)
                dist.send(torch.tensor([len(content)], dtype=torch.int64, device="cpu"), to)
                dist.send(content, to)
                return None
            size = torch.zeros(1, dtype=torch.int64, device="cpu")
            dist.recv(size, source)
            content = torch.empty(int(size), dtype=torch.uint8, device="cpu")
            dist.recv(content, source)
        return from_bytes(content)

    def tell(self, error: BaseException) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # torchrun repeats them
            self._handle(number, signal.SIG_IGN)
        if self.error is not None:  # the others know it, or are gone
            return
        self.error = error
        if self._terminated:
            happened = self._watch.what_happened()
            self.error = error if happened is None else happened
        elif self._inside:
            self._watch.leave_error(error)
        else:
            try:
                self._words("end", 0, error)
            except RuntimeError:
                self._watch.leave_error(error)

    @property
    def speaks(self) -> bool:
        gone: list[int] = []
        if isinstance(self.error, RankGone):
            gone = self._watch.gone or self._watch.silent_for(QUIET)
        return self.rank == self._watch.speaker(gone)

    def told(self) -> None:
        with suppress(RuntimeError):
            self._store.set(TOLD, "1")

    def wait_until_told(self) -> None:
        with suppress(RuntimeError):
            self._store.wait([TOLD], TELLING)

    def leave(self) -> None:
        self._watch.stop()
        dist.destroy_process_group()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _words(self, what: str, size: int, error: BaseException | None = None) -> list[int]:
        """How many bytes every rank is about to send. Raises the error of a rank that ends."""
        said = None if error is None else torch.frombuffer(bytearray(pickled(error)), dtype=torch.uint8)
        word = [_WELL, crc32(what.encode()), size] if said is None else [_ENDING, 0, len(said)]
        own = torch.tensor(word, dtype=torch.int64, device="cpu")
        with self._exchanging():
            words = [torch.zeros_like(own) for _ in range(self.size)]
            dist.all_gather(words, own)
            self._inside = True
            sizes = [int(word[2]) for word in words]
            ending = [rank for rank, word in enumerate(words) if int(word[0]) == _ENDING]
            heard = {rank: self._sent(sizes[rank], rank, said) for rank in ending}
        if said is None and ending:
            first = unpickled(heard[ending[0]].numpy().tobytes())
            if isinstance(first, InputError):
                first = InputError(f"rank {ending[0]}: {first}")
            self.error = first
            raise first
        if not ending and len({int(word[1]) for word in words}) > 1:
            raise RuntimeError(f"the ranks are about to exchange different things, this one {what!r}")
        return sizes

    def _sent(self, size: int, source: int, content: Tensor | None) -> Tensor:
        """The bytes (size,) uint8 of one rank, which has them as `content`, on all ranks."""
        found = torch.empty(size, dtype=torch.uint8, device="cpu") if source != self.rank else content
        assert found is not None
        dist.broadcast(found, source)
        return found

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        """While something is exchanged: what fails then is that another rank has ended."""
        self._inside = True
        with part(EXCHANGE):
            try:
                yield
            except RuntimeError as error:
                if "memory" in str(error):  # of this process: the others hear of it from `tell`
                    raise
                happened = self._watch.what_happened()
                self.error = happened or RankGone(BROKEN)
                raise self.error from error
        self._inside = False
        if self._terminated:
            raise KeyboardInterrupt

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        """torchrun sends SIGTERM to all when one rank has ended."""
        self._terminated = True
        if not self._inside:
            raise KeyboardInterrupt

    def _handle(self, number: int, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before.setdefault(number, signal.signal(number, handler))
