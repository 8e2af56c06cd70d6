"""The picture of a comparison: accuracy and KL divergence against true bits, one colour and marker per
method.

A filled mark stands at the bits of the packed linears as stored. A hollow one of the same colour, joined to
it by a thin line, stands where the method's own paper counts it. matplotlib is imported when something is
drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bivlm.quantizers import QUANTIZERS
from bivlm.studies.compare.result import FULL_PRECISION, Comparison, ComparisonRow
from bivlm.studies.labels import place_labels
from bivlm.studies.picture import STYLES, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

SIZE, DPI = (14.0, 7.0), 150
CROWDED = 30  # with more rows, many of the same accuracy, only divergences have names


def style_of(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method: by its place among all quantizers, so that it looks the same in every
    picture.
    """
    order = [*sorted(QUANTIZERS), *sorted(set(methods) - set(QUANTIZERS))]
    return STYLES[order.index(method) % len(STYLES)]


def comparison_plot(found: Comparison, path: Path) -> None:
    """Write the picture of a comparison as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    full = next(row for row in found.rows if row.preset == FULL_PRECISION)
    rows = [row for row in found.rows if row.true_bits is not None and row is not full]
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    accuracy, divergence = figure.subplots(1, 2)
    accuracy.set(ylabel=f"{found.metric.replace('_', ' ')} in %, with its 95 % interval", title="Accuracy")
    divergence.set(yscale="log", ylabel="nats per answer token", title="KL divergence from full precision")
    accuracy.axhline(100 * (full.accuracy or 0.0), color="black", linestyle="--", linewidth=1)
    labels = (_draw(accuracy, rows, "accuracy", 100.0), _draw(divergence, rows, "kl", 1.0))
    _draw_intervals(accuracy, rows)
    for axes in (accuracy, divergence):
        axes.set_xlabel("true bits per weight of the packed linears")
        axes.grid(visible=True, which="major", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0.1, y=0.1)
    figure.legend(handles=_legend(rows), loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(f"{found.model}: {found.packed} packed, {found.questions} questions", fontsize=11)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the axes stay as they are now; labels are placed in them
    for axes, marks in zip((accuracy, divergence), labels, strict=True):
        if axes is divergence or len(rows) <= CROWDED:
            place_labels(canvas, axes, marks)
    save_picture(figure, path)


def _draw(
    axes: Axes, rows: Sequence[ComparisonRow], field: str, factor: float
) -> list[tuple[str, float, float, str]]:
    """The marks of one panel; returns text, place and colour of their labels. A divergence of 0, which a log
    scale has no place for, is left out.
    """
    methods, labels = [row.method for row in rows], []
    for row in rows:
        y, (colour, marker), bits = (
            factor * (getattr(row, field) or 0.0),
            style_of(row.method, methods),
            row.true_bits or 0.0,
        )
        if y <= 0 and axes.get_yscale() == "log":
            continue
        if row.paper_bits is not None:
            axes.plot([row.paper_bits, bits], [y, y], color=colour, linewidth=0.8, alpha=0.6, zorder=1)
            axes.plot(
                row.paper_bits,
                y,
                marker,
                markerfacecolor="white",
                markeredgecolor=colour,
                markersize=6,
                markeredgewidth=1.1,
                zorder=2,
            )
        axes.plot(bits, y, marker, color=colour, markersize=7, zorder=4)
        labels.append((row.preset, bits, y, colour))
    return labels


def _draw_intervals(axes: Axes, rows: Sequence[ComparisonRow]) -> None:
    methods = [row.method for row in rows]
    for row in rows:
        if row.interval is not None:
            ends = [100 * end for end in row.interval]
            axes.plot(
                [row.true_bits or 0.0] * 2,
                ends,
                "_-",
                color=style_of(row.method, methods)[0],
                linewidth=1,
                markersize=5,
                alpha=0.4,
                zorder=3,
            )


def _legend(rows: Sequence[ComparisonRow]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    methods = sorted({row.method for row in rows})
    handles = []
    for method in methods:
        colour, marker = style_of(method, methods)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=method))
    if any(row.paper_bits is not None for row in rows):
        handles.append(
            Line2D(
                [],
                [],
                color="0.3",
                marker="o",
                linestyle="",
                markerfacecolor="white",
                label="its paper's count",
            )
        )
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=FULL_PRECISION))
    return handles
