"""How long work reports to its caller: one protocol for jobs, evaluations and studies.

A caller gives an object with these three methods. `Events` itself does nothing, so a subclass overrides only
the methods that it needs. The command line draws progress bars from them (cli/progress.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bivlm.job.unit import UnitReport


class Events:
    """Receives the events of long work, and ignores them."""

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` items of some work are finished; `what` names it ("questions").

        It is called again with the same `what` as the work goes on, up to done == total.
        """

    def unit(self, report: UnitReport, done: int, total: int) -> None:
        """A unit of a job, a block or a table, is written or read back: `done` of `total` are now."""

    def say(self, line: str) -> None:
        """One line for people: a finished run, a result that is reused, work that was repeated."""


SILENT = Events()
