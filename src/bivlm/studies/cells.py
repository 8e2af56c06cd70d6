"""Cells and tables, for the terminal and for Markdown.

A head that starts with a space stands over numbers: its column is aligned to the right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

SMALL_KL = 1e-3  # below it four decimals would hide the differences

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


def rich_table(title: str, heads: Iterable[str], caption: str = "", whole: Collection[str] = ()) -> Table:
    """An empty table for the terminal. What is too narrow for a cell is folded, never cut; the heads in
    `whole` are not folded.
    """
    table = Table(title=title or None, title_justify="left", caption=caption or None, caption_justify="left")
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
