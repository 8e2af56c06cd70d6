"""Which rows really differ from the first one? Paired tests on the records of the same questions, corrected
for the number of rows (eval/statistics/paired.py).

The first row is that of the table: the smallest model, or the first that was given, or full precision in a
parts study. Divergences are compared between packed models alone, because the full-precision one is at no
distance from itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from bivlm.eval.records import clusters_of
from bivlm.eval.statistics.draws import OverDraws, over_draws
from bivlm.eval.statistics.means import geometric_mean
from bivlm.eval.statistics.paired import (
    Difference,
    corrected,
    geometric_kl_difference,
    kl_difference,
    score_difference,
)
from bivlm.studies.compare.draws import Measured
from bivlm.studies.compare.result import FULL_PRECISION, Against, ComparisonRow, Told

Test = Callable[[Measured, Measured], Difference | None]


def with_differences(measured: Sequence[Measured]) -> list[ComparisonRow]:
    """The rows in their order, each with what sets it apart from the first; nothing if the first failed."""
    first, *others = measured
    tests = {"accuracy": _scores, "kl": _kl, "kl_geometric": _geometric_kl}
    told = {name: _told(name, test, first, others) for name, test in tests.items()} if first.draws else {}
    rows = [first.row]
    for index, other in enumerate(others):
        against = Against(**{name: column[index] for name, column in told.items()})
        rows.append(replace(other.row, against=against if against.accuracy else None))
    return rows


def _told(name: str, test: Test, first: Measured, others: Sequence[Measured]) -> list[Told | None]:
    """What a test says of every row, corrected for the rows that it says something of."""
    found = [test(first, other) if other.draws else None for other in others]
    known = iter(corrected([difference for difference in found if difference is not None]))
    return [
        None if difference is None else Told(next(known), _over_draws(name, first.row, other.row))
        for difference, other in zip(found, others, strict=True)
    ]


def _over_draws(name: str, first: ComparisonRow, other: ComparisonRow) -> OverDraws | None:
    if not (first.draws or other.draws):
        return None
    before, after = (
        [getattr(draw, name) for draw in row.draws] or [getattr(row, name)] for row in (first, other)
    )
    return None if None in before or None in after else over_draws(before, after)


def _scores(first: Measured, other: Measured) -> Difference:
    return score_difference(first.scores, other.scores, clusters_of(first.draws[0]))


def _kl(first: Measured, other: Measured) -> Difference | None:
    chosen, clusters = _comparable(first, other)
    if not clusters:
        return None
    tokens = [record.tokens or 0 for record, kept in zip(first.draws[0], chosen, strict=True) if kept]
    return kl_difference(first.divergences(chosen, fmean), other.divergences(chosen, fmean), tokens, clusters)


def _geometric_kl(first: Measured, other: Measured) -> Difference | None:
    chosen, clusters = _comparable(first, other)
    if not clusters:
        return None
    return geometric_kl_difference(
        first.divergences(chosen, geometric_mean), other.divergences(chosen, geometric_mean), clusters
    )


def _comparable(first: Measured, other: Measured) -> tuple[list[bool], list[str]]:
    """Which questions have a divergence in both, and their clusters; none where one row is full precision."""
    if FULL_PRECISION in (first.row.preset, other.row.preset):
        return [], []
    chosen = [mine and theirs for mine, theirs in zip(first.judged, other.judged, strict=True)]
    clusters = clusters_of(first.draws[0])
    return chosen, [cluster for cluster, kept in zip(clusters, chosen, strict=True) if kept]
