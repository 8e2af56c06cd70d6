"""Where the time of a job goes: seconds by part, every second counted once.

    with profiled() as seconds:             # around a job
        run(prepared, out)
    with part("factorization"):             # in the code; outside `profiled` it does nothing
        …

A part inside another part stops the clock of the outer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter

OTHER = "other"


@dataclass
class _Clock:
    """When the innermost part began, the seconds of each part so far, and the parts that are under way."""

    since: float
    seconds: dict[str, float] = field(default_factory=dict)
    under_way: list[str] = field(default_factory=lambda: [OTHER])

    def turn(self) -> None:
        """Add the time since the last turn to the innermost part."""
        now, name = perf_counter(), self.under_way[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now


_clock: ContextVar[_Clock | None] = ContextVar("bivlm_profile", default=None)


@contextmanager
def profiled() -> Iterator[dict[str, float]]:
    """Measure what is done within this context: the seconds of each part, complete at its end. What is in no
    part is "other".
    """
    clock = _Clock(perf_counter())
    token = _clock.set(clock)
    try:
        yield clock.seconds
    finally:
        clock.turn()
        _clock.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """What is done within this context is the part `name` of the job, except for parts inside it."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    clock.turn()
    clock.under_way.append(name)
    try:
        yield
    finally:
        clock.turn()
        clock.under_way.pop()
