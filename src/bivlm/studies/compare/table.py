"""A comparison as a table: the same cells on the terminal and in Markdown, for a list of presets or for the
study of the parts.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from bivlm.eval.statistics.paired import SIGNIFICANT
from bivlm.studies.cells import (
    Columns,
    divergence,
    escaped,
    interval,
    made_by,
    markdown_table,
    number,
    rich_table,
    size,
)
from bivlm.studies.compare.result import FULL_PRECISION, Comparison, ComparisonRow
from bivlm.types import PARTS

CHECK = "✓"

ACCURACY: Columns = {
    " accuracy": lambda row: number(row.accuracy, ".1%"),
    " 95 % interval": lambda row: "" if row.interval is None else interval(row.interval),
    " KL": lambda row: divergence(row.kl),
    " geometric KL": lambda row: "" if row.preset == FULL_PRECISION else divergence(row.kl_geometric),
}
AGAINST: Columns = {
    "accuracy vs 1st": lambda row: verdict(row, "accuracy"),
    "KL vs 1st": lambda row: verdict(row, "kl"),
    "geometric KL vs 1st": lambda row: verdict(row, "kl_geometric"),
}
DRAWS: Columns = {
    " accuracy, draws": lambda row: between(row, "accuracy", lambda value: f"{value:.1%}"),
    " KL, draws": lambda row: between(row, "kl", divergence),
}
METHODS: Columns = {
    "preset": lambda row: row.preset,
    "parts": lambda row: "all" if row.parts == PARTS else ", ".join(row.parts),
    **ACCURACY,
    **AGAINST,
    **DRAWS,
    " top-1 agreement": lambda row: number(row.top1_agreement, ".1%"),
    " same answers": lambda row: number(row.greedy_agreement, ".1%"),
    " ECE": lambda row: number(row.ece, ".3f"),
    " AUROC": lambda row: number(row.auroc, ".3f"),
    " true bits": lambda row: number(row.true_bits, ".2f"),
    " paper bits": lambda row: number(row.paper_bits, ".2f"),
    " folder": lambda row: "" if row.folder_bytes is None else size(row.folder_bytes),
    " pack s": lambda row: number(row.quantize_seconds, ".1f"),
    " peak memory": lambda row: "" if row.peak_bytes is None else size(row.peak_bytes),
}
STUDY: Columns = {
    "preset": lambda row: row.preset,
    "vision": lambda row: CHECK if "vision" in row.parts else "",
    "projector": lambda row: CHECK if "projector" in row.parts else "",
    "language": lambda row: CHECK if "language" in row.parts else "",
    **ACCURACY,
    **AGAINST,
    **DRAWS,
    " true bits": METHODS[" true bits"],
    " folder": METHODS[" folder"],
}

EXPENDABLE = (
    "parts",
    " peak memory",
    " pack s",
    " AUROC",
    " ECE",
    " paper bits",
    " same answers",
    " top-1 agreement",
    " accuracy, draws",
    " KL, draws",
    " folder",
    "KL vs 1st",
    " 95 % interval",
    "geometric KL vs 1st",
    "accuracy vs 1st",
    " geometric KL",
)  # in this order, on a terminal


def columns_of(found: Comparison) -> dict[str, Callable[[ComparisonRow], str]]:
    """Columns with nothing in any row (peak memory where the system does not tell it) are left out."""
    columns = STUDY if found.study else METHODS
    always = ("vision", "projector", "language")
    return {
        head: cell for head, cell in columns.items() if head in always or any(cell(row) for row in found.rows)
    }


def cells(row: ComparisonRow, columns: Columns) -> list[str]:
    """The row's texts; a run that failed says so where its accuracy would stand."""
    return ["failed" if row.failure and head == " accuracy" else cell(row) for head, cell in columns.items()]


def remarks(found: Comparison) -> list[str]:
    """What stands below the table: what was measured, what the columns mean, what failed and what to beware
    of.
    """
    asked = (
        f"{found.model}, {found.questions} questions ({found.metric}), {found.calibration_samples}"
        f" calibration samples{' about other images' if found.apart else ''}"
    )
    meaning = (
        "true bits: stored bits of the packed linears over their weights, everything counted; folder: all"
        " files"
    )
    if any(row.paper_bits is not None for row in found.rows) and not found.study:
        meaning += "; paper bits: the method's own count"
    meanings = [meaning, *_compared(found)]
    failures = [
        f"failed: {row.preset}{' (' + ', '.join(row.parts) + ')' if found.study else ''}: {row.failure}"
        for row in found.failed
    ]
    return [f"{asked}; {'; '.join(meanings)}.", *failures, *(f"Note: {note}." for note in found.notes)]


def _compared(found: Comparison) -> list[str]:
    """How rows were compared with the first, and what several calibration draws mean."""
    rows = [row for row in found.rows if row.against is not None]
    if not rows:
        return []
    tests = dict.fromkeys(
        row.against.accuracy.difference.test for row in rows if row.against and row.against.accuracy
    )
    told = (
        f"vs 1st: against {found.rows[0].label} on the same questions, accuracy by {' and '.join(tests)},"
        f" divergences by sign flips, p < {SIGNIFICANT} after Holm's correction for all rows, questions about"
        " one image together"
    )
    if found.draws == 1:
        return [told]
    return [
        told,
        (
            f"means over {found.draws} calibration draws where a preset needs data; a difference counts only"
            " if it has the same sign in every draw"
        ),
    ]


def verdict(row: ComparisonRow, what: str) -> str:
    """What sets a row apart from the first in one number, in words."""
    told = getattr(row.against, what, None)
    return "" if told is None else told.verdict


def between(row: ComparisonRow, what: str, shown: Callable[[float], str]) -> str:
    """The smallest and the largest number over the calibration draws; empty for one draw."""
    values = [value for draw in row.draws if (value := getattr(draw, what)) is not None]
    return f"{shown(min(values))} to {shown(max(values))}" if values else ""


def comparison_table(found: Comparison) -> Table:
    """For a terminal: what does not fit is left to the Markdown. What stands below the table is `remarks`."""
    columns = columns_of(found)
    whole = columns.keys() - {"preset"}
    table = rich_table(title_of(found), columns, whole=whole, expendable=EXPENDABLE)
    for row, following in zip(found.rows, [*found.rows[1:], None], strict=True):
        table.add_row(
            *cells(row, columns),
            end_section=found.study and (following is None or following.preset != row.preset),
        )
    return table


def title_of(found: Comparison) -> str:
    return "Which parts bear it" if found.study else f"Methods at their true bits, {found.packed}"


def comparison_markdown(found: Comparison, *, picture: str | None) -> str:
    """A page: the picture, the table, and how it was made."""
    columns = columns_of(found)
    shown = [f"![accuracy and KL divergence against true bits]({picture})", ""] if picture else []
    below = [line for remark in remarks(found) for line in (escaped(remark), "")]
    lines = [
        f"# {title_of(found)}",
        "",
        *shown,
        *markdown_table(list(columns), (cells(row, columns) for row in found.rows), centred=PARTS),
        "",
        *below,
        *made_by(found.machine, found.command),
    ]
    return "\n".join(lines) + "\n"


def row_line(row: ComparisonRow) -> str:
    """A finished run in one line."""
    if row.failure or row.accuracy is None or row.kl is None or row.true_bits is None:
        return f"{row.label}: failed: {row.failure}"
    packed = "" if row.quantize_seconds is None else f", packed in {row.quantize_seconds:.1f} s"
    return f"{row.label}: {row.true_bits:.2f} bits, accuracy {row.accuracy:.1%}, KL {row.kl:.4f}{packed}"
