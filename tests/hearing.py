"""Events for tests: a function that receives every finished unit, or every step of a measurement."""

from __future__ import annotations

from collections.abc import Callable

from bivlm.events import Events
from bivlm.job.unit import UnitReport


class Hearing(Events):
    """Calls `on_unit` with the report of every unit, and `on_progress` with (what, done, total)."""

    def __init__(
        self,
        on_unit: Callable[[UnitReport], None] = lambda report: None,
        on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self._on_unit, self._on_progress = on_unit, on_progress

    def unit(self, report: UnitReport, total: int) -> None:
        self._on_unit(report)

    def progress(self, what: str, done: int, total: int) -> None:
        self._on_progress(what, done, total)
