"""The heat map of a pruning study: a row for each pruner; left the accuracy that is lost, right the KL
divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bivlm.studies.picture import save_picture
from bivlm.studies.prune.result import PruningCell, PruningStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
SMALLEST_KL = 1e-4  # what is below is drawn like this


def pruning_plot(found: PruningStudy, path: Path) -> None:
    """Write the heat map as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pruners = list(dict.fromkeys(cell.pruner for cell in found.cells))
    places = list(dict.fromkeys(cell.place for cell in found.cells))
    keeps = sorted({cell.keep for cell in found.cells}, reverse=True)
    figure = Figure(
        figsize=(3.6 + 1.3 * len(keeps), 1.3 + (0.5 + 0.3 * len(places)) * len(pruners)),
        dpi=DPI,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(pruners), 2, squeeze=False, sharex=True, sharey=True)
    columns: tuple[
        tuple[str, Callable[[PruningCell], float | None], dict[str, Any], Callable[[float], str]], ...
    ] = (
        (
            "accuracy lost, in points",
            lambda cell: 100 * (found.accuracy - cell.accuracy),
            {"vmin": 0.0, "vmax": _most_lost(found)},
            lambda v: f"{v:.1f}",
        ),
        (
            "KL divergence, in nats",
            lambda cell: cell.kl,
            {"norm": _logarithmic(found)},
            lambda v: f"{v:.4f}" if v < 0.1 else f"{v:.2f}",
        ),
    )
    for column, (title, value, scale, text) in enumerate(columns):
        for line, pruner in enumerate(pruners):
            cells = {(cell.place, cell.keep): value(cell) for cell in found.cells if cell.pruner == pruner}
            image = _panel(panels[line, column], places, keeps, cells, scale, text)
            panels[line, column].set_title(pruner, fontsize=9, loc="left")
        panels[-1, column].set_xlabel("share of tokens that stays", fontsize=9)
        figure.colorbar(
            image, ax=panels[:, column].tolist(), label=title, location="top", shrink=0.8, aspect=40
        )
    figure.suptitle(
        f"{found.model}: {found.visual_tokens} visual tokens, {found.questions} questions,"
        f" {found.accuracy:.1%} with all of them",
        fontsize=11,
    )
    save_picture(figure, path)


def _panel(
    axes: Axes,
    places: list[str],
    keeps: list[float],
    cells: dict[tuple[str, float], float | None],
    scale: dict[str, Any],
    text: Any,
) -> Any:
    """One pruner's values: darker is worse; empty where nothing was measured."""
    values = np.array(
        [
            [np.nan if cells.get((place, keep)) is None else cells[place, keep] for keep in keeps]
            for place in places
        ],
        dtype=float,
    )
    shown = np.maximum(values, SMALLEST_KL) if "norm" in scale else np.maximum(values, 0.0)
    image = axes.imshow(np.ma.masked_invalid(shown), aspect="auto", cmap="viridis_r", **scale)
    axes.set_xticks(range(len(keeps)), [f"{keep:.0%}" for keep in keeps], fontsize=8)
    axes.set_yticks(range(len(places)), places, fontsize=8)
    for row, column in zip(*np.isfinite(values).nonzero(), strict=True):
        dark = float(np.asarray(image.norm(shown[row, column]))) > 0.55
        axes.text(
            column,
            row,
            text(values[row, column]),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
    return image


def _most_lost(found: PruningStudy) -> float:
    return max(1.0, *(100 * (found.accuracy - cell.accuracy) for cell in found.cells))


def _logarithmic(found: PruningStudy) -> Any:
    from matplotlib.colors import LogNorm

    largest = max((cell.kl for cell in found.cells if cell.kl is not None), default=0.0)
    return LogNorm(SMALLEST_KL, max(largest, 10 * SMALLEST_KL))
