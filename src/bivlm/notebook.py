"""For notebooks: bars while long work runs, and results as HTML tables. Jupyter shows an object by its
`_repr_html_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Self

from bivlm.events import Events

if TYPE_CHECKING:
    from tqdm.std import tqdm

    from bivlm.job.unit import UnitReport


class Bars(Events):
    """Shows events as tqdm's bars, in a notebook as widgets: one for the current work, one for the units of a
    job. A context manager that closes them.

        with bivlm.Bars() as bars:
            bivlm.quantize("path/to/model", "out", events=bars)
    """

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all bars as they are."""
        while self._bars:
            self._bars.popitem()[1].close()

    def progress(self, what: str, done: int, total: int) -> None:
        self._move(what, done, total)

    def unit(self, report: UnitReport, done: int, total: int) -> None:
        last = f"{report.bits_per_weight:.2f} bits, error {report.error:.4f}" if report.weights else "kept"
        self._move("blocks", done, total, last)

    def say(self, line: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(line)

    def _move(self, what: str, done: int, total: int, last: str = "") -> None:
        from tqdm.auto import tqdm

        bar = self._bars.get(what)
        if bar is None:
            bar = self._bars[what] = tqdm(total=total, desc=what, leave=what == "blocks")
        bar.total = total
        bar.set_postfix_str(last, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            self._bars.pop(what).close()


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; texts are escaped, and what begins with a digit is aligned to the right."""

    def cell(text: str) -> str:
        place = ' style="text-align:right"' if text[:1].isdigit() else ""
        return f"<td{place}>{escape(text)}</td>"

    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
