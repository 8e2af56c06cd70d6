"""An analysis as tables: by part on the terminal, and by part, by bands and by linear on a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.table import Table

from bivlm.studies.analyze.result import Analysis
from bivlm.studies.analyze.weight import BIN_WIDTH, OUTLIERS, RANGE, gaussian_outliers
from bivlm.studies.cells import Columns, made_by, markdown_table, number, rich_table

LISTED = 10  # linears on the page
LEVEL_WORDS = {"paper": "the paper's", "lloyd": "fitted"}


def share(value: float | None) -> str:
    """A share in percent, with two digits that count."""
    if value is None:
        return ""
    return "0 %" if value == 0 else f"{100 * value:.1e} %" if value < 1e-5 else f"{100 * value:.2g} %"


def _beyond(place: int) -> Callable[[Any], str]:
    """The cell of a limit, for a part or a linear."""

    def cell(row: Any) -> str:
        outliers = getattr(row, "statistics", row).outliers
        return share(None if outliers is None else outliers[place])

    return cell


BEYOND: Columns = {f" beyond {limit:g} std": _beyond(place) for place, limit in enumerate(OUTLIERS)}
PART_COLUMNS: Columns = {
    "part": lambda row: row.part,
    " linears": lambda row: str(row.linears),
    " weights": lambda row: f"{row.weights:,}",
    " KL, median": lambda row: number(row.kl, ".2g"),
    " KL, largest": lambda row: number(row.largest_kl, ".2g"),
    " excess kurtosis": lambda row: number(row.kurtosis, ".2f"),
    **BEYOND,
    " largest": lambda row: number(row.largest, ".1f"),
}
SALIENCY_COLUMNS: Columns = {
    "part": lambda row: row[0].part,
    " bands": lambda row: str(row[1].bands),
    "levels of the tail": lambda row: LEVEL_WORDS[row[1].levels],
    " J without a tail": lambda row: f"{row[1].error:.4f}",
    " best share": lambda row: f"{100 * row[1].best_share:.2f} %",
    " of at most": lambda row: f"{100 * row[0].salient_max:g} %",
    " gain in J": lambda row: f"{100 * row[1].gain:.1f} %",
}
LINEAR_COLUMNS: Columns = {
    "linear": lambda row: f"`{row.name}`",
    "part": lambda row: row.part,
    " KL": lambda row: number(row.statistics.kl, ".2g"),
    " by chance": lambda row: number(row.statistics.kl_by_chance, ".2g"),
    " excess kurtosis": lambda row: number(row.statistics.kurtosis, ".2f"),
    **BEYOND,
    " largest": lambda row: number(row.statistics.largest, ".1f"),
}


def analysis_table(found: Analysis) -> Table:
    """For the terminal: a row for each part."""
    title = f"{found.model}: the weights of its {len(found.linears)} linears against a Gaussian"
    table = rich_table(title, PART_COLUMNS)
    for part in found.parts:
        table.add_row(*_cells(part, PART_COLUMNS))
    return table


def analysis_markdown(found: Analysis, *, picture: str) -> str:
    """A page: the picture, the parts, what a salient tail gains, and the linears that are least like a
    Gaussian.
    """
    saliency = [(part, curve) for part in found.parts for curve in part.saliency]
    lines = [
        f"# The weights of {found.model}",
        "",
        f"![histograms, divergence, outliers and saliency by part]({picture})",
        "",
        "## By part",
        "",
        *_markdown(PART_COLUMNS, found.parts),
        "",
        _meaning_of_parts(),
        "",
        "## What a salient tail gains",
        "",
        *_markdown(SALIENCY_COLUMNS, saliency),
        "",
        MEANING_OF_J,
        "",
        "## Least like a Gaussian",
        "",
        *_markdown(LINEAR_COLUMNS, found.least_gaussian(LISTED)),
        "",
        "By chance: the KL that as many draws from a Gaussian have on average.",
        "",
        *made_by(f"{found.machine}; {found.seconds:.1f} s", found.command),
    ]
    return "\n".join(lines) + "\n"


MEANING_OF_J = (
    "J: squared error of Bi-VLM's bands and salient tail over the squared weights of a linear (Eq. 20), one"
    " set of scalars for a layer, as the salient share goes from 0 to the paper's largest for the part."
    " Medians over the linears; the best share is where J is lowest, the gain 1 - J / J(0) there. The tail"
    " has two bits, by the paper's rule or with four levels fitted to it."
)


def _meaning_of_parts() -> str:
    gaussian = ", ".join(
        f"{share(value)} beyond {limit:g}" for value, limit in zip(gaussian_outliers(), OUTLIERS, strict=True)
    )
    return (
        "KL: divergence of a linear's histogram from the Gaussian of its mean and standard deviation, in"
        f" nats (bins of {BIN_WIDTH:g} standard deviations to {RANGE:g} on either side, and one beyond);"
        " median and largest over the linears. Excess kurtosis: median over the linears, 0 for a Gaussian."
        " Beyond: share of all weights farther than so many of their linear's standard deviations from its"
        f" mean; a Gaussian has {gaussian}. Largest: the farthest weight, in standard deviations."
    )


def _markdown(columns: Columns, rows: Iterable[Any]) -> list[str]:
    return markdown_table(list(columns), (_cells(row, columns) for row in rows))


def _cells(row: Any, columns: Columns) -> list[str]:
    return [cell(row) for cell in columns.values()]
