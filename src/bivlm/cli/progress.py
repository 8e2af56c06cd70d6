"""Events on the standard error: bars on a terminal, plain lines if the output goes to a file or a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bivlm.cli.shared import note
from bivlm.events import Events

if TYPE_CHECKING:
    from rich.progress import TaskID

    from bivlm.job.unit import UnitReport

LEAST_BAR, MOST_BAR = 12, 40  # characters
TIME = len("-:--:--")
BEGINNING = "reading the model"  # what the bar says before it is told


class Shown(Events):
    """Shows events on the standard error. A context manager: the bars are visible inside it.

    On a terminal one bar shows the current work and disappears at the end; a bar over a job's units (bits and
    error of the last one, resident memory) stays. Otherwise every unit is a line, and with `lines` so is
    every other step.
    """

    def __init__(self, console: Console = note, *, lines: bool = False) -> None:
        self.console, self.lines = console, lines
        self.process = psutil.Process()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(_bar_width(console)),
            MofNCompleteColumn(),
            _Time(),
            _Last(console),
            console=console,
            disable=not console.is_terminal,
        )
        self.what = BEGINNING
        self.step: TaskID = self.bars.add_task(BEGINNING, total=None, last="")
        self.units: TaskID | None = None

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.remove_task(self.step)
        self.bars.live.transient = self.units is None
        self.bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        if what != self.what:
            self.what = what
            self.bars.reset(self.step, description=what, completed=done, total=total, visible=True)
        self.bars.update(self.step, completed=done, total=total)
        if self.lines:
            self._line(f"{what} {done}/{total}")

    def unit(self, report: UnitReport, done: int, total: int) -> None:
        if self.units is None:
            self.units = self.bars.add_task("blocks", total=total, last="")
            self.bars.update(self.step, visible=False)
        what = f"{report.bits_per_weight:.2f} bpw  error {report.error:.4f}" if report.weights else "kept"
        told = [what, f"{self.process.memory_info().rss / 1e9:.2f} GB"]
        told += ["(from the earlier run)"] if report.resumed else []
        self.bars.update(self.units, completed=done, total=total, last="  ".join([*told, report.path]))
        self._line(f"block {done}/{total}  {'  '.join([report.path, *told])}  {report.seconds:.1f} s")

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _line(self, line: str) -> None:
        if not self.console.is_terminal:
            self.say(line)


class _Time(ProgressColumn):
    """Elapsed and remaining time; only the remaining time if the last unit's numbers need the space."""

    def __init__(self) -> None:
        super().__init__()
        self.gone, self.left = TimeElapsedColumn(), TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        left = self.left.render(task)
        return left if task.fields["last"] else Text.assemble(self.gone.render(task), " ", left)


class _Last(ProgressColumn):
    """What the last unit's numbers are, as far as the line has room for them: bar, count and time stay."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def render(self, task: Task) -> Text:
        count = 2 * len(str(int(task.total or 0))) + 1
        rest = self.console.width - len(task.description) - _bar_width(self.console) - count - TIME - 4
        text = Text(task.fields["last"])
        text.truncate(max(0, rest), overflow="ellipsis")
        return text


def _bar_width(console: Console) -> int:
    return max(LEAST_BAR, min(MOST_BAR, console.width // 5))
