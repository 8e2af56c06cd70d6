"""Events that remember what they were told, pass it on, and interrupt when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bivlm.events import Events


class Told(Events):
    """`steps` are the (what, done, total) of progress, `units` the (report, done, total), `lines` what was
    said.

    `on_unit` gets every report; where `stop` is true of a step (what, done), KeyboardInterrupt is raised.
    """

    def __init__(
        self,
        on_unit: Callable[[Any], object] = lambda report: None,
        stop: Callable[[str, int], bool] = lambda what, done: False,
    ) -> None:
        self.on_unit, self.stop = on_unit, stop
        self.steps: list[tuple[str, int, int]] = []
        self.lines: list[str] = []
        self.units: list[tuple[Any, int, int]] = []

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))
        if self.stop(what, done):
            raise KeyboardInterrupt

    def unit(self, report: Any, done: int, total: int) -> None:
        self.units.append((report, done, total))
        self.on_unit(report)

    def say(self, line: str) -> None:
        self.lines.append(line)
