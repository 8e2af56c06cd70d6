"""A pruning study as tables of pruners, blocks and shares, for the terminal and as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from bivlm.studies.cells import interval, made_by, markdown_table, number, rich_table, size
from bivlm.studies.prune.result import PruningCell, PruningStudy, Redundancy, grouped


def cell_line(cell: PruningCell) -> str:
    """A finished cell in one line."""
    kl = number(cell.kl, ".4f")
    other = "" if cell.overlap is None else f", {cell.overlap:.0%} of the kept tokens are the reference's"
    return (
        f"{cell.pruner}, {cell.place}, {cell.keep:.0%} kept: accuracy {cell.accuracy:.1%}, KL {kl}, time to"
        f" first token {cell.prefill:.2f}, cache {cell.cache:.2f}{other}"
    )


def redundancy_table(found: PruningStudy) -> Table:
    """For a terminal: what can go, pruner by pruner and place by place."""
    caption = (
        "largest share that can go at a loss of at most one point; accuracy with all tokens"
        f" {found.accuracy:.1%}"
    )
    heads = ("pruner", "dropped from", " can go", " accuracy")
    table = rich_table(found.model, heads, caption, whole=heads)
    for row in found.redundancy:
        table.add_row(*_redundancy_cells(row))
    return table


def _redundancy_cells(row: Redundancy) -> tuple[str, ...]:
    return row.pruner, row.place, f"{row.share:.0%}", f"{row.accuracy:.1%}"


MATRICES: dict[str, tuple[str, Callable[[PruningCell], str]]] = {
    "Accuracy": ("in %", lambda cell: f"{100 * cell.accuracy:.1f}"),
    "KL divergence from the reference": ("nats per answer token", lambda cell: number(cell.kl, ".4f")),
    "Time to first token": (
        "as a ratio to no pruning, image encoding included",
        lambda cell: f"{cell.prefill:.2f}",
    ),
    "Keys and values": (
        "bytes behind the prompt, as a ratio to no pruning",
        lambda cell: f"{cell.cache:.2f}",
    ),
}
RANKINGS: dict[str, tuple[str, Callable[[PruningCell], str]]] = {
    "Kept tokens that the reference keeps too": (
        "in %; by chance it would be the share that stays",
        lambda cell: _percent(cell.overlap),
    ),
    "Accuracy when the reference's choice is kept": ("in %", lambda cell: _percent(cell.accuracy_by_other)),
    "KL divergence when the reference's choice is kept": (
        "nats per answer token",
        lambda cell: number(cell.kl_by_other, ".4f"),
    ),
}


def pruning_markdown(found: PruningStudy, *, picture: str) -> str:
    """A page: the heat map, what can go, and the numbers block by block."""
    lines = [
        f"# Pruning visual tokens of {found.model}",
        "",
        f"![loss of accuracy and KL divergence by block and share]({picture})",
        "",
        _measured_with(found),
        "",
        "## What can go",
        "",
        (
            "The largest measured share of tokens whose loss costs at most one point of accuracy, smaller"
            " shares costing no more."
        ),
        "",
        *markdown_table(
            ("pruner", "dropped from", " share that can go", " accuracy then"),
            map(_redundancy_cells, found.redundancy),
        ),
        "",
    ]
    matrices = MATRICES | (RANKINGS if any(cell.overlap is not None for cell in found.cells) else {})
    for title, (unit, shown) in matrices.items():
        lines += [
            f"## {title}",
            "",
            f"{unit[0].upper()}{unit[1:]}; a column for each share that stays.",
            "",
            *_matrix(found, shown),
            "",
        ]
    return "\n".join([*lines, *made_by(found.machine, found.command)]) + "\n"


def _measured_with(found: PruningStudy) -> str:
    """How many questions were asked, and the model with all its tokens."""
    kl = (
        ""
        if found.reference == "no pruning" or found.kl is None
        else f", KL {found.kl:.4f} from {found.reference}"
    )
    return (
        f"{found.questions} questions ({found.metric}). With all visual tokens ({found.visual_tokens} in a"
        f" prompt): accuracy {found.accuracy:.1%} (95 % interval {interval(found.interval)}){kl}; time to"
        f" first token {1000 * found.prefill_seconds:.1f} ms, keys and values {size(found.cache_bytes)}. KL"
        f" and agreement are measured against {found.reference}."
    )


def _matrix(found: PruningStudy, shown: Callable[[PruningCell], str]) -> list[str]:
    """A row for each pruner at each place, a column for each share that stays."""
    keeps = sorted({cell.keep for cell in found.cells}, reverse=True)
    rows = []
    for (pruner, place), cells in grouped(found.cells):
        by_keep = {cell.keep: shown(cell) for cell in cells}
        rows.append((pruner, place, *(by_keep.get(keep, "") for keep in keeps)))
    return markdown_table(("pruner", "dropped from", *(f" {keep:.0%}" for keep in keeps)), rows)


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, ".1f")
