"""Events that remember what they were told, and that interrupt when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bivlm.events import Events


class Told(Events):
    """`steps` are the (what, done, total) of progress, `lines` what was said; where `stop` is true of a step,
    KeyboardInterrupt is raised.
    """

    def __init__(self, stop: Callable[[str, int], bool] = lambda what, done: False) -> None:
        self.stop = stop
        self.steps: list[tuple[str, int, int]] = []
        self.lines: list[str] = []
        self.units: list[Any] = []

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))
        if self.stop(what, done):
            raise KeyboardInterrupt

    def unit(self, report: Any, total: int) -> None:
        self.units.append((report, total))

    def say(self, line: str) -> None:
        self.lines.append(line)
