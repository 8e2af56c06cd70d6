"""Several calibration draws of one preset: each is packed and measured, and they are one row.

A row's numbers are means over its draws, the geometric mean divergence a geometric mean. Its interval and
standard errors are those of every question's mean over the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bivlm.eval.records import Record, clusters_of
from bivlm.eval.statistics.intervals import mean_interval
from bivlm.eval.statistics.means import geometric_mean, standard_error
from bivlm.studies.compare.result import ComparisonRow, DrawNumbers

AVERAGED = (
    "accuracy",
    "kl",
    "top1_agreement",
    "greedy_agreement",
    "ece",
    "brier",
    "aurc",
    "auroc",
    "true_bits",
    "paper_bits",
    "quantize_seconds",
    "eval_seconds",
)


@dataclass(frozen=True)
class Measured:
    """A row, and the records of every draw that it is made of, in the same order of questions; none if it
    failed.
    """

    row: ComparisonRow
    draws: tuple[tuple[Record, ...], ...]

    @property
    def scores(self) -> list[float]:
        """Every question's mean score."""
        return [fmean(record.score for record in question) for question in zip(*self.draws, strict=True)]

    @property
    def judged(self) -> list[bool]:
        """Whether every draw has a divergence for the question."""
        return [
            all(record.kl is not None for record in question) for question in zip(*self.draws, strict=True)
        ]

    def divergences(self, chosen: Sequence[bool], mean: Callable[[list[float]], float]) -> list[float]:
        """The mean divergence over draws of the chosen questions."""
        questions = zip(*self.draws, strict=True)
        kept = (question for question, wanted in zip(questions, chosen, strict=True) if wanted)
        return [mean([record.kl or 0.0 for record in question]) for question in kept]


def merged(draws: Sequence[Measured]) -> Measured:
    """One row of several draws; a draw that failed makes it a failed one, with its reason."""
    if len(draws) == 1:
        return draws[0]
    rows = [draw.row for draw in draws]
    failed = next((number for number, row in enumerate(rows, 1) if row.failure), None)
    if failed is not None:
        reason = f"calibration draw {failed}: {rows[failed - 1].failure}"
        return Measured(replace(rows[0], failure=reason, note="", **dict.fromkeys(AVERAGED)), ())
    together = Measured(rows[0], tuple(records for draw in draws for records in draw.draws))
    clusters, chosen, scores = clusters_of(together.draws[0]), together.judged, together.scores
    kls = together.divergences(chosen, fmean)
    tokens = [record.tokens or 0 for record, kept in zip(together.draws[0], chosen, strict=True) if kept]
    places = [cluster for cluster, kept in zip(clusters, chosen, strict=True) if kept]
    geometric = [row.kl_geometric for row in rows if row.kl_geometric is not None]
    row = replace(
        rows[0],
        **{name: _mean(rows, name) for name in AVERAGED},
        interval=mean_interval(scores),
        standard_error=standard_error(scores, clusters),
        kl_geometric=geometric_mean(geometric) if len(geometric) == len(rows) else None,
        kl_standard_error=standard_error(kls, places, tokens) if kls else None,
        folder_bytes=round(fmean(row.folder_bytes or 0 for row in rows)),
        peak_bytes=max((row.peak_bytes for row in rows if row.peak_bytes is not None), default=None),
        draws=tuple(DrawNumbers(row.accuracy, row.kl, row.kl_geometric) for row in rows),
    )
    return Measured(row, together.draws)


def _mean(rows: Sequence[ComparisonRow], name: str) -> float | None:
    """The mean over the rows; None if one has no such number."""
    values = [getattr(row, name) for row in rows]
    return None if any(value is None for value in values) else fmean(values)
