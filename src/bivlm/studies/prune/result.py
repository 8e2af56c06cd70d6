"""What a pruning study finds: a cell for every pruning, and how many tokens can go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

TOLERANCE = 0.01  # of accuracy: a loss of one point


@dataclass(frozen=True)
class PruningCell:
    """One pruning, measured. Ratios are to the same model without pruning, in the same run.

    kept_tokens        mean number of candidate tokens that stay of a prompt; None when nothing was dropped
    prefill, cache     time to first token (one prompt, image encoding included), bytes of keys and values
                       after it
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
