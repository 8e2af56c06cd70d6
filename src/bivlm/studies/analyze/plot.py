"""The page of an analysis: a column for each part; from above the histograms, the divergence and the outliers
by depth, and the curves of J.

Colours are those of the comparisons; a kind of linear has one colour and marker in all columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bivlm.studies.analyze.result import Analysis, LinearAnalysis
from bivlm.studies.analyze.weight import (
    BANDS,
    BIN_WIDTH,
    OUTLIERS,
    RANGE,
    TAIL_RULES,
    bin_edges,
    gaussian_outliers,
    pooled_outliers,
)
from bivlm.studies.picture import STYLES, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, DPI = 5.4, 19.0, 150  # inches for a column and for the page
GAUSSIAN = {"color": "black", "linestyle": "--", "linewidth": 1.2}
BAND_COLOURS = dict(zip(BANDS, ("#0072b2", "#d55e00", "#009e73"), strict=True))
OUTLIER_STYLES = dict(zip(OUTLIERS, (("#56a4d6", "o"), ("#0072b2", "s"), ("#8b1a1a", "D")), strict=True))


def analysis_plot(found: Analysis, path: Path) -> None:
    """Write the page as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [(part, found.of_part(part.part)) for part in found.parts]
    figure = Figure(figsize=(WIDTH * len(columns), HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, len(columns), squeeze=False)
    styles = kind_styles([linears for _, linears in columns])
    for column, (part, linears) in enumerate(columns):
        histograms(panels[0, column], linears)
        divergences(panels[1, column], linears, styles)
        outliers(panels[2, column], linears)
        saliency(panels[3, column], linears)
        panels[0, column].set_title(
            f"{part.part}: {part.linears} linears, {part.weights / 1e6:.3g} million weights", fontsize=12
        )
    for panel in panels[1]:
        panel.set_ylim(decades(found.linears))
    for row, label in enumerate(
        (
            "density of the weights",
            "KL divergence from the Gaussian, in nats",
            "share of a block's weights",
            "J(p) / J(0)",
        ),
    ):
        panels[row, 0].set_ylabel(label, fontsize=11)
    figure.suptitle(
        f"{found.model}: its weights against a Gaussian, and what a salient tail gains", fontsize=14
    )
    save_picture(figure, path)


def kind_styles(columns: Sequence[Sequence[LinearAnalysis]]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every kind of linear: the same in all columns, and in each column no style twice
    while there are enough of them.
    """
    styles: dict[str, tuple[str, str]] = {}
    for linears in columns:
        kinds = list(dict.fromkeys(linear.kind for linear in linears))
        for kind in kinds:
            taken = {styles[other] for other in kinds if other in styles}
            free = [style for style in STYLES if style not in taken]
            styles.setdefault(kind, (free or STYLES)[0])
    return styles


def histograms(axes: Axes, linears: Sequence[LinearAnalysis]) -> None:
    """All weights of the part in their linear's deviations, the linears between the deciles, the one least
    like a Gaussian, and the Gaussian.
    """
    told = [linear for linear in linears if linear.statistics.histogram is not None]
    edges = bin_edges()
    middles = (edges[1:] + edges[:-1]) / 2
    z = np.linspace(-RANGE, RANGE, 400)
    axes.plot(z, np.exp(-z * z / 2) / math.sqrt(2 * math.pi), label="fitted Gaussian", zorder=3, **GAUSSIAN)
    if told:
        counts = np.array([linear.statistics.histogram for linear in told], dtype=float)
        densities = counts / counts.sum(1, keepdims=True) / BIN_WIDTH
        inner = densities[:, 1:-1]
        low, high = np.quantile(inner, (0.1, 0.9), axis=0)
        axes.fill_between(
            middles,
            low,
            high,
            step="mid",
            color="#56a4d6",
            alpha=0.35,
            linewidth=0,
            label="linears, 10 to 90 %",
        )
        pooled = counts.sum(0)[1:-1] / counts.sum() / BIN_WIDTH
        axes.stairs(
            np.where(pooled > 0, pooled, np.nan),
            edges,
            color="#0072b2",
            linewidth=1.6,
            label="all linears",
            baseline=None,
        )
        worst = max(range(len(told)), key=lambda place: told[place].statistics.kl or 0.0)
        shown = np.where(inner[worst] > 0, inner[worst], np.nan)
        axes.plot(
            middles,
            shown,
            ".",
            color="#d55e00",
            markersize=5,
            label=f"least Gaussian: {place_of(told[worst])}",
        )
    axes.set(yscale="log", xlim=(-RANGE, RANGE), ylim=(1e-7, 2.0), xlabel="standard deviations from the mean")
    finish(axes, 2)


def place_of(linear: LinearAnalysis) -> str:
    return f"block {linear.depth}, {linear.kind}"


def divergences(axes: Axes, linears: Sequence[LinearAnalysis], styles: dict[str, tuple[str, str]]) -> None:
    """The divergence of every linear, a line for each kind; dotted what chance alone would give."""
    told = [linear for linear in linears if linear.statistics.kl is not None]
    place = places(axes, linears)
    for kind in dict.fromkeys(linear.kind for linear in told):
        colour, marker = styles[kind]
        values = {place[linear.name]: linear.statistics.kl or 0.0 for linear in told if linear.kind == kind}
        steps = range(min(values), max(values) + 1)  # no line across blocks that have no such linear
        axes.plot(
            steps,
            [values.get(x, np.nan) for x in steps],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            label=kind,
        )
    at = sorted({place[linear.name] for linear in told})
    chance = [
        float(
            np.median([linear.statistics.kl_by_chance or 0.0 for linear in told if place[linear.name] == x])
        )
        for x in at
    ]
    axes.step(
        at, chance, where="mid", color="black", linestyle=":", linewidth=1.2, label="a Gaussian, by chance"
    )
    if len(at) == 1:  # no line to see
        axes.axhline(chance[0], color="black", linestyle=":", linewidth=1.2)
    axes.set_yscale("log")
    finish(axes, 3 if max(len(linear.kind) for linear in linears) > 12 else 4)


def decades(linears: Sequence[LinearAnalysis]) -> tuple[float, float]:
    """The whole decades that hold every divergence, so that the parts can be compared."""
    found = [linear.statistics for linear in linears]
    values = [
        value for one in found for value in (one.kl, one.kl_by_chance) if value is not None and value > 0
    ] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def outliers(axes: Axes, linears: Sequence[LinearAnalysis]) -> None:
    """The shares of a block's weights beyond each limit; dotted those of a Gaussian. Where there is none, a
    hollow mark stands on the axis.
    """
    place = places(axes, linears)
    pooled = {
        x: pooled_outliers([linear.statistics for linear in linears if place[linear.name] == x])
        for x in sorted(set(place.values()))
    }
    at = [x for x, found in pooled.items() if found is not None]
    for index, limit in enumerate(OUTLIERS):
        colour, marker = OUTLIER_STYLES[limit]
        shares = np.array([found[index] for found in pooled.values() if found is not None])
        axes.plot(
            at,
            np.where(shares > 0, shares, np.nan),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            label=f"beyond {limit:g} std",
        )
        none = [x for x, value in zip(at, shares, strict=True) if value == 0]
        hollow = {
            "marker": marker,
            "color": colour,
            "markerfacecolor": "white",
            "markersize": 5,
            "linestyle": "",
            "clip_on": False,
        }
        if none:
            axes.plot(none, [0.0] * len(none), transform=axes.get_xaxis_transform(), **hollow)
        axes.axhline(gaussian_outliers()[index], color=colour, linestyle=":", linewidth=1.2)
    axes.plot([], [], color="0.4", linestyle=":", linewidth=1.2, label="a Gaussian")
    axes.set(yscale="log", ylim=(1e-9, 1.0))
    finish(axes, 4)


def places(axes: Axes, linears: Sequence[LinearAnalysis]) -> dict[str, int]:
    """Where each linear stands on the horizontal axis: at its depth, or, where the part is one block, side by
    side under their kinds.
    """
    from matplotlib.ticker import MaxNLocator

    if len({linear.depth for linear in linears}) > 1:
        axes.set_xlabel("block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return {linear.name: linear.depth for linear in linears}
    axes.set_xticks(range(len(linears)), [linear.kind for linear in linears])
    axes.set_xlim(-0.6, len(linears) - 0.4)
    return {linear.name: index for index, linear in enumerate(linears)}


def saliency(axes: Axes, linears: Sequence[LinearAnalysis]) -> None:
    """J(p) / J(0): median over the linears, the quartiles of the paper's rule, every linear's minimum as a
    point, and the median's as a mark.
    """
    percent = 100 * linears[0].salient_max
    shares = np.linspace(0.0, percent, len(linears[0].saliency[0].errors))
    for bands, colour in BAND_COLOURS.items():
        for levels in TAIL_RULES:
            curves = [
                curve for curve in (linear.curve(bands, levels) for linear in linears) if curve.errors[0] > 0
            ]
            if not curves:
                continue
            ratios = np.array([curve.errors for curve in curves]) / np.array(
                [[curve.errors[0]] for curve in curves]
            )
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75), axis=0)
            best, literal = int(middle.argmin()), levels == "paper"
            start = float(np.median([curve.errors[0] for curve in curves]))
            label = f"{bands} band{'s' if bands > 1 else ''}: J(0) = {start:.3f}" if literal else None
            axes.plot(
                shares, middle, color=colour, linestyle="-" if literal else "--", linewidth=1.6, label=label
            )
            if literal:
                axes.fill_between(shares, low, high, color=colour, alpha=0.2, linewidth=0)
            lowest = ratios.min(1)
            axes.plot(
                shares[ratios.argmin(1)],
                lowest,
                ".",
                color=colour,
                markersize=6,
                alpha=0.35,
                zorder=2,
                clip_on=False,
            )
            axes.plot(
                shares[best],
                middle[best],
                "o" if literal else "s",
                color=colour,
                markeredgecolor="black",
                markersize=7,
                zorder=5,
                clip_on=False,
            )
    axes.plot([], [], color="0.3", label="the paper's levels")
    axes.plot([], [], color="0.3", linestyle="--", label="levels fitted to the tail")
    axes.plot([], [], "o", color="0.7", markeredgecolor="black", label="lowest point of the median")
    axes.plot([], [], ".", color="0.6", markersize=6, label="lowest point of a linear")
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set(xlim=(0, percent), xlabel="salient share p, in %")
    finish(axes, 2)


def finish(axes: Axes, columns: int) -> None:
    """Grid, numbers and, below the panel where it hides nothing, the legend."""
    axes.grid(visible=True, which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=columns,
        fontsize=8.5,
        frameon=False,
        columnspacing=1.0,
        handlelength=1.7,
    )
