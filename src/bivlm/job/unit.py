"""One unit of a job, a block with its linears or a table: made and written, or read back.

    read the weight ─► correct it for earlier errors ─► quantize ─► pack ─► tune ─► measure ─► write
    or, if an earlier run wrote it: read it back

A store holds the finished units: the output folder, or the memory of this process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

from bivlm.calibration.tuning import Tuned
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.events import Events
from bivlm.formats import PackedTensor
from bivlm.job.plan import Plan, UnitPlan, WeightPlan
from bivlm.job.weight import WeightReport, packed_errors, quantize_weights, weight_of
from bivlm.machine import return_free_memory
from bivlm.profile import part
from bivlm.quantizers.base import GroupQuantizer
from bivlm.types import LinearStats

logger = logging.getLogger("bivlm.quantizers")

Packed = Mapping[str, PackedTensor]
Vectors = Mapping[str, Tensor]
Rows = Mapping[str, Mapping[str, Any]]
StatsOf = Callable[[str], LinearStats]
Tune = Callable[[Packed], Tuned]
Forget = Callable[[str], None]
Made = TypeVar("Made")


@dataclass(frozen=True)
class MadeUnit:
    """A unit as it is stored: its packed weights, its rows of the report, and its parameters that have new
    values.
    """

    path: str
    packed: Packed
    report: Rows
    vectors: Vectors


class UnitStore(Protocol):
    """Where finished units go, by their path. checkpoint/output.py is one; `MemoryStore` is another."""

    def is_done(self, path: str) -> bool:
        """Whether a unit is stored completely."""
        ...

    def write_unit(self, path: str, packed: Packed, report: Rows, vectors: Vectors) -> None:
        """Keep a unit: its packed weights, its rows of the report, and its parameters that have new
        values.
        """
        ...

    def read_unit(self, path: str) -> tuple[Packed, Vectors, Rows]:
        """A finished unit, exactly as it was given to `write_unit`."""
        ...

    def replace_units(self, units: Iterable[MadeUnit], outside: Vectors) -> None:
        """Put other units in the place of stored ones, all of them or none, with new values of parameters
        `outside` all units.
        """
        ...


@dataclass(frozen=True)
class MemoryStore:
    """Finished units in memory, for a walk that writes no folder."""

    units: dict[str, tuple[Packed, Vectors, Rows]] = field(default_factory=dict)
    outside: dict[str, Tensor] = field(default_factory=dict)

    def is_done(self, path: str) -> bool:
        return path in self.units

    def write_unit(self, path: str, packed: Packed, report: Rows, vectors: Vectors) -> None:
        self.units[path] = packed, vectors, report

    def read_unit(self, path: str) -> tuple[Packed, Vectors, Rows]:
        return self.units[path]

    def replace_units(self, units: Iterable[MadeUnit], outside: Vectors) -> None:
        self.units.update({unit.path: (unit.packed, unit.vectors, unit.report) for unit in list(units)})
        self.outside.update(outside)


@dataclass(frozen=True)
class UnitReport:
    """One finished unit, for the progress bar: the reports of its weights, and the seconds that it took.

    `resumed`: an earlier run had finished it.
    """

    path: str
    weights: Mapping[str, WeightReport]
    seconds: float
    resumed: bool

    @property
    def weight_count(self) -> int:
        return sum(report.weights for report in self.weights.values())

    @property
    def bits_per_weight(self) -> float:
        stored = sum(report.stored_bytes for report in self.weights.values())
        return 8 * stored / max(self.weight_count, 1)

    @property
    def error(self) -> float:
        """The weight-averaged layer error (weight error without data)."""

        def of(report: WeightReport) -> float:
            return report.weight_error if report.layer_error is None else report.layer_error

        lost = sum(of(report) * report.weights for report in self.weights.values())
        return lost / max(self.weight_count, 1)


@dataclass(frozen=True)
class UnitMaker:
    """Makes the units of a plan, or reads back those that the store has. In a `crew` all ranks make a unit
    together.
    """

    source: SourceModel
    plan: Plan
    store: UnitStore
    events: Events
    crew: Crew = ALONE

    def finish(
        self,
        unit: UnitPlan,
        stats: StatsOf | None = None,
        tune: Tune | None = None,
        owners: Mapping[str, int] | None = None,
        forget: Forget | None = None,
    ) -> tuple[Packed, Vectors]:
        """The packed weights of a unit by name, and the vectors that tuning changed; the store then has both.

        If samples ran, `stats` gives the statistics of a linear's inputs; `tune` fits the packed unit, on the
        first rank. `owners` has the rank that quantizes each weight, by name, where that rank has its
        statistics; without it that is the first. `forget` is told the name of a linear whose statistics are
        not looked at again.
        """
        started, resumed = time.perf_counter(), self.store.is_done(unit.path)
        if resumed:
            packed, vectors, rows = self.store.read_unit(unit.path)
            reports = {name: WeightReport(**row) for name, row in rows.items()}
        else:
            packed, vectors, reports = self._make(unit, stats, tune, owners or {}, forget)
            rows = {name: asdict(report) for name, report in reports.items()}
            with part("writing"):
                self.store.write_unit(unit.path, packed, rows, vectors)
        report = UnitReport(unit.path, reports, time.perf_counter() - started, resumed)
        paths = [planned.path for planned in self.plan.units]
        self.events.unit(report, 1 + paths.index(unit.path), len(paths))
        return packed, vectors

    def _make(
        self,
        unit: UnitPlan,
        stats: StatsOf | None,
        tune: Tune | None,
        owners: Mapping[str, int],
        forget: Forget | None,
    ) -> tuple[Packed, Vectors, dict[str, WeightReport]]:
        """Quantize, tune, measure."""
        mine = [linear for linear in unit.quantized if owners.get(linear.name, 0) == self.crew.rank]
        made: dict[str, tuple[PackedTensor, WeightReport]] = {}
        for group in self._together(mine, stats):
            return_free_memory()
            # an expert's are summed when it is asked for
            known = self._stats(group[0].quantizer, group[0].name, stats)
            made |= quantize_weights(self.source, group, known, self.plan.propagation)
            del known
            if forget is not None and tune is None:
                for linear in group:
                    forget(linear.name)
        own, made = made, self._of_all(made)
        for name, (_, report) in made.items():
            if self.crew.is_first and name not in own:  # it speaks for all
                for note in report.notes:
                    logger.warning(note)
        packed = {linear.name: made[linear.name][0] for linear in unit.quantized}
        reports = {linear.name: made[linear.name][1] for linear in unit.quantized}
        if tune is None or not packed:
            return packed, {}, reports
        with part("tuning blocks"):
            tuned = self.crew.broadcast(tune(packed) if self.crew.is_first else None)
        assert tuned is not None
        errors = self._of_all(
            {
                linear.name: packed_errors(
                    weight_of(self.source, linear.name),
                    tuned.packed[linear.name],
                    self._stats(linear.quantizer, linear.name, stats),
                )
                for linear in mine
            }
        )
        reports = {name: replace(report, **errors[name]) for name, report in reports.items()}
        # in the dtype in which they will be read back
        vectors = {name: vector.to(self.source.entries[name].dtype) for name, vector in tuned.vectors.items()}
        return tuned.packed, vectors, reports

    def _together(self, linears: Sequence[WeightPlan], stats: StatsOf | None) -> Iterator[list[WeightPlan]]:
        """The weights that are quantized at once: each alone, but those of a method for groups that receive
        the very same input.
        """
        left = list(linears)
        while left:
            first = left.pop(0)
            group = [first]
            if isinstance(first.quantizer, GroupQuantizer) and stats is not None:
                moments = stats(first.name).second_moments
                group += [
                    other
                    for other in left
                    if other.quantizer == first.quantizer and _same_input(moments, stats(other.name))
                ]
                left = [other for other in left if all(other is not one for one in group)]
            yield group

    def _of_all(self, own: Mapping[str, Made]) -> dict[str, Made]:
        """What all ranks have made, by name."""
        return {name: made for each in self.crew.gather(own) for name, made in each.items()}

    def _stats(self, quantizer: Any, name: str, stats: StatsOf | None) -> LinearStats | None:
        """Statistics of a linear's inputs; None if neither its quantizer nor the plan uses them."""
        needed = quantizer.needs_data or self.plan.propagation
        return stats(name) if stats is not None and needed else None


def _same_input(moments: Mapping[Any, Tensor], stats: LinearStats) -> bool:
    """Whether these are the very moments of another linear's statistics."""
    others = stats.second_moments
    return moments.keys() == others.keys() and any(moments[key] is others[key] for key in moments)
