"""The reliability diagram: how often answers are right against how sure the model was of them.

A mark is a bin of questions (eval/confidence.py); on the diagonal they are right as often as the model says.
matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from bivlm.eval.confidence import Calibration
from bivlm.studies.picture import STYLES, save_picture

SIZE, DPI = (6.4, 6.0), 150
MARGIN = 0.02


def reliability_plot(found: Mapping[str, Calibration], path: Path) -> None:
    """Write the diagram of one or several models, by their names, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low = _lowest(found.values())
    axes.plot([low, 1], [low, 1], color="black", linestyle="--", linewidth=1, label="as sure as right")
    for number, (name, measured) in enumerate(found.items()):
        colour, marker = STYLES[number % len(STYLES)]
        axes.plot(
            [one.confidence for one in measured.bins],
            [one.score for one in measured.bins],
            color=colour,
            marker=marker,
            markersize=6,
            linewidth=1,
            label=f"{name}: {measured.n} questions, ECE {measured.ece:.3f}",
        )
    axes.set(
        xlabel="the model's probability of its answer",
        ylabel="mean score",
        title="Reliability, in bins of as many questions each",
        xlim=(low, 1 + MARGIN),
        ylim=(low, 1 + MARGIN),
        aspect="equal",
    )
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    save_picture(figure, path)


def _lowest(found: Collection[Calibration]) -> float:
    """Where the axes begin: the tenth below the lowest mark."""
    values = (value for measured in found for one in measured.bins for value in (one.confidence, one.score))
    return math.floor(10 * (min(values, default=0.0) - MARGIN)) / 10
