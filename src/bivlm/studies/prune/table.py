"""What a pruning study found, and how it is laid out: tables of pruners, blocks and shares, for the terminal
and as Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from bivlm.cli.tables import size

TOLERANCE = 0.01  # of accuracy: a loss of one point


@dataclass(frozen=True)
class PruningCell:
    """One pruning, measured. Ratios are to the same model without pruning, in the same run.

    kept_tokens        mean number of candidate tokens that stay of a prompt; None when nothing was dropped
    prefill, cache     time to first token (one prompt, image encoding included), bytes of keys and values
                       behind it
    overlap            share of the kept tokens that the reference model keeps too; with accuracy and KL when
                       the reference's choice is kept; or None
    """

    pruner: str
    site: str
    layer: int
    keep: float
    tokens: str
    accuracy: float
    interval: tuple[float, float]
    kl: float | None
    top1_agreement: float | None
    kept_tokens: float | None
    prefill: float
    cache: float
    overlap: float | None = None
    accuracy_by_other: float | None = None
    kl_by_other: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PruningCell:
        return cls(**{**content, "interval": tuple(content["interval"])})

    @property
    def place(self) -> str:
        """Where tokens are dropped, in words."""
        return {"language": f"language block {self.layer}", "vision": f"vision block {self.layer}"}.get(
            self.site, "before the language model"
        )


@dataclass(frozen=True)
class Redundancy:
    """The largest measured share that can go at a loss of at most a point of accuracy, for a pruner at a
    place; 0 when none can.
    """

    pruner: str
    place: str
    share: float
    accuracy: float


@dataclass(frozen=True)
class PruningStudy:
    """All cells, in the order in which they were asked for, and the model without pruning."""

    model: str
    reference: str
    questions: int
    metric: str
    accuracy: float
    interval: tuple[float, float]
    kl: float | None
    visual_tokens: int
    prefill_seconds: float
    cache_bytes: int
    cells: tuple[PruningCell, ...]
    machine: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "redundancy": [asdict(row) for row in self.redundancy]}

    @property
    def redundancy(self) -> list[Redundancy]:
        rows = []
        for (pruner, place), cells in grouped(self.cells):
            share, accuracy = 0.0, self.accuracy
            for cell in sorted(cells, key=lambda cell: -cell.keep):
                if cell.accuracy < self.accuracy - TOLERANCE:
                    break
                share, accuracy = 1 - cell.keep, cell.accuracy
            rows.append(Redundancy(pruner, place, share, accuracy))
        return rows


def grouped(cells: Sequence[PruningCell]) -> list[tuple[tuple[str, str], list[PruningCell]]]:
    """The cells of each pruner at each place, in the order of their first appearance."""
    order = list(dict.fromkeys((cell.pruner, cell.place) for cell in cells))
    return [(key, [cell for cell in cells if (cell.pruner, cell.place) == key]) for key in order]


def cell_line(cell: PruningCell) -> str:
    """A finished cell in one line."""
    other = "" if cell.overlap is None else f", {cell.overlap:.0%} of the kept tokens are the reference's"
    return (
        f"{cell.pruner}, {cell.place}, {cell.keep:.0%} kept: accuracy {cell.accuracy:.1%}, KL"
        f" {_nats(cell.kl)}, time to first token {cell.prefill:.2f}, cache {cell.cache:.2f}{other}"
    )


def redundancy_table(found: PruningStudy) -> Table:
    """For a terminal: what can go, pruner by pruner and place by place."""
    caption = (
        "largest share that can go at a loss of at most one point; accuracy with all tokens"
        f" {found.accuracy:.1%}"
    )
    table = Table(title=found.model, title_justify="left", caption=caption, caption_justify="left")
    for head in ("pruner", "dropped from"):
        table.add_column(head, no_wrap=True)
    for head in ("can go", "accuracy"):
        table.add_column(head, justify="right")
    for row in found.redundancy:
        table.add_row(row.pruner, row.place, f"{row.share:.0%}", f"{row.accuracy:.1%}")
    return table


MATRICES: dict[str, tuple[str, Callable[[PruningCell], str]]] = {
    "Accuracy": ("in %", lambda cell: f"{100 * cell.accuracy:.1f}"),
    "KL divergence from the reference": ("nats per answer token", lambda cell: _nats(cell.kl)),
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
        lambda cell: _nats(cell.kl_by_other),
    ),
}


def pruning_markdown(found: PruningStudy, *, picture: str) -> str:
    """A page: the heat map, what can go, and the numbers block by block."""
    low, high = found.interval
    kl = (
        ""
        if found.reference == "no pruning" or found.kl is None
        else f", KL {found.kl:.4f} from {found.reference}"
    )
    lines = [
        f"# Pruning visual tokens of {found.model}",
        "",
        f"![loss of accuracy and KL divergence by block and share]({picture})",
        "",
        (
            f"{found.questions} questions ({found.metric}). With all visual tokens ({found.visual_tokens} in"
            f" a prompt): accuracy {found.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}){kl}; time to"
            f" first token {1000 * found.prefill_seconds:.1f} ms, keys and values {size(found.cache_bytes)}."
            f" KL and agreement are measured against {found.reference}."
        ),
        "",
        "## What can go",
        "",
        (
            "The largest measured share of tokens whose loss costs at most one point of accuracy, smaller"
            " shares costing no more."
        ),
        "",
        "| pruner | dropped from | share that can go | accuracy then |",
        "|---|---|--:|--:|",
        *(
            f"| {row.pruner} | {row.place} | {row.share:.0%} | {row.accuracy:.1%} |"
            for row in found.redundancy
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
    made = [f"Machine: {found.machine}."] + (
        ["", "Command:", "", f"    {found.command}"] if found.command else []
    )
    return "\n".join([*lines, *made]) + "\n"


def _matrix(found: PruningStudy, shown: Callable[[PruningCell], str]) -> list[str]:
    keeps = sorted({cell.keep for cell in found.cells}, reverse=True)
    lines = [
        "| pruner | dropped from | " + " | ".join(f"{keep:.0%}" for keep in keeps) + " |",
        "|---|---|" + "--:|" * len(keeps),
    ]
    for (pruner, place), cells in grouped(found.cells):
        by_keep = {cell.keep: shown(cell) for cell in cells}
        lines.append(f"| {pruner} | {place} | " + " | ".join(by_keep.get(keep, "") for keep in keeps) + " |")
    return lines


def _nats(value: float | None) -> str:
    """A divergence; empty where no token was finite."""
    return "" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
