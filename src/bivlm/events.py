"""What long work tells its caller: one protocol for jobs, evaluations and studies.

A caller gives an object with these three methods; `Events` itself keeps silent, so that a subclass overrides
only what it shows. The command line draws progress bars from them (cli/progress.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bivlm.job.unit import UnitReport


class Events:
    """Hears what happens while something long runs, and does nothing about it."""

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` items of some work are finished; `what` names it ("questions").

        The same `what` is told again as it goes on, up to done == total.
        """

    def unit(self, report: UnitReport, done: int, total: int) -> None:
        """A unit of a job, a block or a table, is written or read back: `done` of `total` are now."""

    def say(self, line: str) -> None:
        """One line for people: a run that is finished, a result that is kept, something that was redone."""


SILENT = Events()
