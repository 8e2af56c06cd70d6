"""The picture of a recount: a bar for the bits of each part, and a line where the claim stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bivlm.recount.result import Recount
from bivlm.studies.cells import size
from bivlm.studies.picture import STYLES, save_picture

WIDTH, DPI = 9.0, 150
HEAD, BAR = 1.1, 0.34  # inches of a panel's title and axis, and of a bar


def recount_plot(found: Sequence[Recount], path: Path) -> None:
    """Write the picture of one or several models as PNG, a panel for each, with one scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [_bars(one) for one in found]
    heights = [HEAD + BAR * len(of_one) for of_one in bars]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    most = max(
        [bits for of_one in bars for _, bits, _ in of_one]
        + [claim.bits for one in found for claim in one.claims[:1]]
    )
    for axes, one, of_one in zip(panels, found, bars, strict=True):
        colours = [STYLES[0][0] if name != "files" else STYLES[7][0] for name, _, _ in of_one]
        labels = [name for name, _, _ in of_one]
        drawn = axes.barh(labels, [bits for _, bits, _ in of_one], color=colours, height=0.7)
        axes.bar_label(drawn, [label for _, _, label in of_one], padding=4, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * most)
        axes.set_title(Path(one.name).name, fontsize=10, loc="left", parse_math=False)
        axes.set_xlabel("bits per weight", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        if one.claims:
            claim = one.claims[0]
            axes.axvline(claim.bits, color=STYLES[1][0], linestyle="--", linewidth=1.5)
            told = f"claimed: {claim.words}"
            axes.set_title(told, fontsize=9, loc="right", color=STYLES[1][0], parse_math=False)
    save_picture(figure, path)


def _bars(found: Recount) -> list[tuple[str, float, str]]:
    """Name, bits and label of every bar; a part of unknown weights has a label alone."""
    named = [(row.name, row.bits, row.nbytes) for row in (*found.rows, found.total)]
    named.append(("files", found.file_bits, found.file_bytes))
    return [
        (name, bits or 0.0, f"{'unknown' if bits is None else f'{bits:.2f}'}  ({size(nbytes)})")
        for name, bits, nbytes in named
    ]
