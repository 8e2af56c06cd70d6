"""The figures of a report, as SVG: they stay sharp, and text in them can be read aloud and searched."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bivlm.errors import printable
from bivlm.eval.statistics.intervals import mean_interval
from bivlm.studies.picture import STYLES
from bivlm.studies.report.evaluated import Evaluated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PART_COLOURS = {"vision": "#0072b2", "projector": "#009e73", "language": "#d55e00", "embeddings": "#b8860b"}
INK = "#1b1f24"  # becomes the colour of the page's text
GRID = {"color": "#80808040", "linewidth": 0.6}
EXPERT_MAPS = (  # title, number, whether on a logarithmic scale
    ("true bits", "bits", False),
    ("relative error", "error", True),
    ("calibration tokens", "tokens", True),
)
MOST_GROUPS = 24  # in the figure; the table has all
MOST_SIGNS = 40  # of a name in a figure; the page's table has the whole


def figures(several: Sequence[Evaluated]) -> list[tuple[str, str, str]]:
    """Title, description and SVG of every figure for which there is data."""
    from matplotlib import rc_context

    ink = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    with rc_context({**ink, "svg.fonttype": "none", "svg.hashsalt": "bivlm"}):
        drawn = [(title, words, draw(several)) for title, words, draw in DRAWN]
        return [(title, words, _svg(figure)) for title, words, figure in drawn if figure is not None]


def _quality(several: Sequence[Evaluated]) -> Figure | None:
    """Accuracy and KL divergence against true bits."""
    figure = _figure(9.0, 3.4)
    accuracy, divergence = figure.subplots(1, 2)
    for number, evaluated in enumerate(several):
        colour, marker = STYLES[number % len(STYLES)]
        low, high = (100 * end for end in evaluated.result["interval"])
        accuracy.plot([evaluated.bits] * 2, [low, high], "_-", color=colour, alpha=0.5)
        score = 100 * evaluated.result["accuracy"]
        accuracy.plot(evaluated.bits, score, marker, color=colour, label=_label(evaluated.name))
        kl = evaluated.number("kl_geometric")
        if evaluated.packed and kl is not None and kl > 0:
            divergence.plot(evaluated.bits, kl, marker, color=colour)
    accuracy.set(title="Score, with its 95 % interval", ylabel="%", xlabel="true bits per weight")
    divergence.set(
        title="KL divergence from the reference",
        ylabel="nats per token, geometric mean",
        xlabel="true bits per weight",
    )
    divergence.set_yscale("log")
    for axes in (accuracy, divergence):
        axes.grid(visible=True, **GRID)
        axes.set_axisbelow(True)
    accuracy.legend(fontsize=7, frameon=False)
    return figure


def _parts(several: Sequence[Evaluated]) -> Figure | None:
    """How large every part of every packed model is, and its bits; None if none is packed."""
    packed = [evaluated for evaluated in several if evaluated.packed]
    if not packed:
        return None
    figure = _figure(9.0, 0.8 + 0.45 * len(packed))
    axes = figure.subplots()
    names = list(dict.fromkeys(part.name for evaluated in packed for part in evaluated.parts))
    for row, evaluated in enumerate(packed):
        left = 0.0
        for part in evaluated.parts:
            width = part.nbytes / 1e6
            axes.barh(row, width, left=left, color=PART_COLOURS.get(part.name, "#555555"), height=0.7)
            axes.text(
                left + width / 2, row, f"{part.bits:.2f}", ha="center", va="center", fontsize=7, color="white"
            )
            left += width
    axes.set_yticks(range(len(packed)), [_label(evaluated.name) for evaluated in packed])
    axes.invert_yaxis()
    axes.set_xlabel("MB of packed weights; the numbers are true bits per weight")
    from matplotlib.patches import Patch

    handles = [Patch(color=PART_COLOURS.get(name, "#555555"), label=name) for name in names]
    axes.legend(
        handles=handles,
        fontsize=7,
        frameon=False,
        ncols=len(names),
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
    )
    return figure


def _experts(several: Sequence[Evaluated]) -> Figure | None:
    """A cell for every packed expert, a row for every layer: bits, error, and calibration tokens; None if no
    model has experts.
    """
    packed = [evaluated for evaluated in several if evaluated.experts]
    if not packed:
        return None
    from matplotlib.colors import LogNorm

    heights = [0.9 + min(0.2 * len(evaluated.experts), 3.0) for evaluated in packed]
    figure = _figure(9.0, sum(heights))
    grid = figure.subplots(len(packed), len(EXPERT_MAPS), squeeze=False, height_ratios=heights)
    for row, evaluated in zip(grid, packed, strict=True):
        for axes, (title, field, is_log) in zip(row, EXPERT_MAPS, strict=True):
            values = expert_map(evaluated, field)
            axes.set_title(title, fontsize=8)
            if values is None:
                axes.set_axis_off()
                continue
            shown = axes.imshow(values, aspect="auto", norm=LogNorm() if is_log else None, cmap="viridis")
            figure.colorbar(shown, ax=axes).ax.tick_params(which="both", labelsize=7)
            axes.set_xlabel("expert", fontsize=7)
            for side in (axes.xaxis, axes.yaxis):
                side.get_major_locator().set_params(integer=True)
            axes.tick_params(labelsize=7)
        row[0].set_ylabel(f"{_label(evaluated.name)}\nlayer of experts", fontsize=7)
    return figure


def expert_map(evaluated: Evaluated, field: str) -> Any:
    """A number of every expert (layers, experts), masked where there is none or no expert; None if there is
    none at all. Zero tokens are masked too.
    """
    import numpy as np

    width = 1 + max(one.number for layer in evaluated.experts for one in layer)
    found = np.full((len(evaluated.experts), width), np.nan)
    for place, layer in enumerate(evaluated.experts):
        for one in layer:
            value = getattr(one, field)
            found[place, one.number] = value or np.nan
    return None if np.isnan(found).all() else np.ma.masked_invalid(found)


def _groups(several: Sequence[Evaluated]) -> Figure | None:
    """The score by group of questions with its 95 % interval; None if the questions have no groups."""
    groups = list(dict.fromkeys(r.group for evaluated in several for r in evaluated.records if r.group))[
        :MOST_GROUPS
    ]
    if not groups:
        return None
    figure = _figure(9.0, 1.0 + 0.18 * len(groups) * max(2, len(several)))
    axes = figure.subplots()
    step = 0.8 / len(several)
    for number, evaluated in enumerate(several):
        colour, marker = STYLES[number % len(STYLES)]
        for row, group in enumerate(groups):
            scores = [record.score for record in evaluated.records if record.group == group]
            if scores:
                y = row - 0.4 + step * (number + 0.5)
                low, high = mean_interval(scores)
                axes.plot([100 * low, 100 * high], [y, y], "-", color=colour, alpha=0.5)
                label = _label(evaluated.name) if row == 0 else None
                axes.plot(100 * sum(scores) / len(scores), y, marker, color=colour, markersize=4, label=label)
    axes.set_yticks(range(len(groups)), [_label(group) for group in groups])
    axes.invert_yaxis()
    axes.set_xlabel("score in %, with its 95 % interval")
    axes.grid(visible=True, axis="x", **GRID)
    axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return figure


def _reliability(several: Sequence[Evaluated]) -> Figure | None:
    """Score against confidence, in bins of equal mass; None if no model's confidence is known."""
    sure = [evaluated for evaluated in several if (evaluated.result.get("calibration") or {}).get("bins")]
    if not sure:
        return None
    figure = _figure(4.6, 4.2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1)
    for evaluated in sure:
        colour, marker = STYLES[several.index(evaluated) % len(STYLES)]
        bins = evaluated.result["calibration"]["bins"]
        axes.plot(
            [one["confidence"] for one in bins],
            [one["score"] for one in bins],
            marker=marker,
            color=colour,
            markersize=4,
            linewidth=1,
            label=_label(evaluated.name),
        )
    axes.set(xlabel="confidence of the answer", ylabel="score", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(visible=True, **GRID)
    axes.legend(fontsize=7, frameon=False)
    return figure


def _label(name: str) -> str:
    """A name as a figure can hold it: short, the middle left out, and no formula."""
    half = MOST_SIGNS // 2
    short = name if len(name) <= MOST_SIGNS else f"{name[:half]}…{name[-half:]}"
    return printable(short).replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    """The figure as an SVG element in the page's own colour, without a background, the same for the same
    numbers.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


DRAWN: tuple[tuple[str, str, Callable[[Sequence[Evaluated]], Figure | None]], ...] = (
    ("Quality against size", "Score and KL divergence against true bits.", _quality),
    ("Where the bytes are", "Bytes and true bits of the parts of every packed model.", _parts),
    (
        "The experts",
        (
            "Bits, error and calibration tokens of every expert; a cell without colour is an expert that"
            " stayed in full precision, or that no token reached."
        ),
        _experts,
    ),
    ("By group of questions", "Score by group of questions with its interval.", _groups),
    (
        "Does it know when it is wrong?",
        "Score against confidence, in bins of equally many questions.",
        _reliability,
    ),
)
