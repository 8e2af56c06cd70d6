"""Cells and tables, for the terminal and for Markdown.

A head that starts with a space stands over numbers: its column is aligned to the right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

SMALL_KL = 1e-3  # below it four decimals would hide the differences

FOLDED = 24  # characters of a name in the first column that must stand in one line

Columns = Mapping[str, Callable[[Any], str]]  # head -> the cell of a row


def size(count: float) -> str:
    """Bytes as people write them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} B"


def number(value: float | None, form: str) -> str:
    """The number in a form such as ".2f"; empty for None."""
    return "" if value is None else format(value, form)


def interval(ends: tuple[float, float]) -> str:
    """A 95 % interval of an accuracy."""
    return f"{ends[0]:.1%} to {ends[1]:.1%}"


def divergence(value: float | None) -> str:
    """A KL divergence in nats; empty for None."""
    return number(value, ".4f" if value == 0 or (value or 0) >= SMALL_KL else ".1e")


def right(head: str) -> bool:
    """Whether a column holds numbers."""
    return head.startswith(" ")


class FittedTable(Table):
    """A table that leaves out some columns on a terminal that is too narrow for the words of all of them:
    those in `expendable` (heads without spaces around them), in this order. What was left out is said below.
    """

    expendable: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from super(FittedTable, self.fitted(options.max_width)).__rich_console__(console, options)

    def fitted(self, width: int) -> FittedTable:
        """The table without the columns that `width` characters do not hold."""
        kept, gone = list(self.columns), []
        for head in self.expendable:
            if 1 + sum(3 + _width(column, column is kept[0]) for column in kept) <= width:
                break
            gone += [head for column in kept if column.header == head]
            kept = [column for column in kept if column.header != head]
        if not gone:
            return self
        table = copy(self)
        table.columns = [replace(column, _index=place) for place, column in enumerate(kept)]
        told = f"left out, for a narrow terminal: {', '.join(gone)}"
        table.caption = f"{self.caption}; {told}" if self.caption else told
        return table


def _width(column: Column, is_first: bool) -> int:
    """Characters that a column needs for its words. Names in the first column may be folded."""
    texts = [str(cell) for cell in (column.header, *column.cells)]
    words = texts if column.no_wrap else [word for text in texts for word in text.split()]
    needed = max(map(cell_len, words), default=0)
    return min(needed, FOLDED) if is_first else needed


def rich_table(
    title: str,
    heads: Iterable[str],
    caption: str = "",
    whole: Collection[str] = (),
    expendable: Iterable[str] = (),
) -> Table:
    """An empty table for the terminal. What is too narrow for a cell is folded, never cut; the heads in
    `whole` are not folded. Those in `expendable` are left out, in this order, where the terminal is too
    narrow for whole words.
    """
    table = FittedTable(
        title=title or None, title_justify="left", caption=caption or None, caption_justify="left"
    )
    table.expendable = [head.strip() for head in expendable]
    for head in heads:
        table.add_column(
            head.strip(),
            justify="right" if right(head) else "left",
            no_wrap=head in whole,
            overflow="fold",
        )
    return table


def markdown_table(
    heads: Sequence[str], rows: Iterable[Iterable[str]], centred: Collection[str] = ()
) -> list[str]:
    """The lines of a table."""
    rule = ("--:" if right(head) else ":-:" if head in centred else "---" for head in heads)
    return [
        f"| {' | '.join(head.strip() for head in heads)} |",
        f"|{'|'.join(rule)}|",
        *(f"| {' | '.join(map(escaped, row))} |" for row in rows),
    ]


def escaped(text: str) -> str:
    """The text as a cell of a Markdown table can hold it."""
    return text.replace("|", "\\|")


def made_by(machine: str, command: str) -> list[str]:
    """The last lines of a page: the machine that its numbers are from, and the command where one is known."""
    return [f"Machine: {machine}.", *(["", "Command:", "", f"    {command}"] if command else [])]
