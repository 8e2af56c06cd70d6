"""What the tables of presets have in common: which presets, rows by bits, the table on the screen and on a
page, and the picture.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bivlm.job.presets import preset_names
from bivlm.job.recipe import Recipe, load_recipe, split_presets
from bivlm.studies.compare.plot import style_of
from bivlm.studies.labels import place_labels
from machine import describe


@dataclass(frozen=True)
class Point:
    """One mark of a plot; `method` decides its colour."""

    method: str
    label: str
    bits: float
    value: float


def recipes_of(names: Sequence[str] | None) -> dict[str, Recipe]:
    """The recipes that `--presets` names, by how they were named; every preset without it. InputError for a
    name that there is none of.
    """
    chosen = preset_names() if names is None else split_presets(names)
    return {Path(name).name: load_recipe(name) for name in chosen}


def by_bits(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by true bits; those that have none come last."""
    return sorted(rows, key=lambda row: math.inf if row["bits"] is None else row["bits"])


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> None:
    table = Table(title=title, caption=caption)
    for column in columns:
        table.add_column(column.strip(), justify="right" if column.startswith(" ") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=10_000).print(table)  # a table takes the width that it needs: cut cells say nothing


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = "|" + "|".join("---:" if column.startswith(" ") else "---" for column in columns) + "|"
    return [
        "| " + " | ".join(column.strip() for column in columns) + " |",
        rule,
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def command_of(script: str, argv: Sequence[str]) -> str:
    """The command as anyone could type it: files and folders elsewhere by their names."""
    return shlex.join(
        [
            "python",
            f"benchmarks/{script}",
            *(Path(part).name if Path(part).is_absolute() else part for part in argv),
        ]
    )


def closing(script: str) -> str:
    """How a page of results ends: the machine, and the command that is running."""
    return f"Machine: {describe()}. Command:\n\n    {command_of(script, sys.argv[1:])}\n"


def plot(
    path: Path, points: Sequence[Point], title: str, ylabel: str, reference: float | None = None
) -> None:
    """Values on a log scale against true bits: a colour per method, a label per point, a dashed line at
    `reference`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = sorted({point.method for point in points})
    styles = {method: style_of(method, methods) for method in methods}
    figure = Figure(figsize=(11, 7), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for method, (colour, marker) in styles.items():
        mine = [point for point in points if point.method == method]
        axes.plot(
            [point.bits for point in mine],
            [point.value for point in mine],
            linestyle="",
            marker=marker,
            color=colour,
            label=method,
            zorder=3,
        )
    if reference is not None:
        axes.axhline(reference, color="black", linestyle="--", linewidth=1, label="full precision")
    axes.set(yscale="log", xlabel="true bits per weight of the packed linears", ylabel=ylabel, title=title)
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.margins(x=0.1, y=0.1)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    place_labels(
        canvas, axes, [(point.label, point.bits, point.value, styles[point.method][0]) for point in points]
    )
    canvas.print_figure(path)


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)
