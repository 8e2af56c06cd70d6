"""Packing a model for a comparison, and its cost: seconds and memory, interrupted runs included."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bivlm.events import Events
from bivlm.job.run import Prepared, run
from bivlm.machine import peak_memory, reset_peak_memory
from bivlm.studies.compare.folder import ComparisonFolder, PackingCost
from bivlm.types import Sample

if TYPE_CHECKING:
    from bivlm.job.unit import UnitReport


def pack(
    folder: ComparisonFolder,
    name: str,
    fingerprint: Mapping[str, Any],
    prepared: Prepared,
    calibration: Sequence[Sample],
    events: Events,
) -> PackingCost:
    """Put the packed model of the run `name` into its folder, and say what that took.

    Blocks that an interrupted run packed are not packed again; they count with the time that they took then.
    """
    target, before = folder.model(name), folder.cost(name, fingerprint)
    if before.packed and (target / "config.json").exists():
        return before
    packing = _Packing(folder, name, fingerprint, before, events)
    run(prepared, target, calibration, overwrite=True, events=packing)
    return packing.note(packed=True)


class _Packing(Events):
    """Records after every block the cost of packing so far, and reports how many blocks are packed."""

    def __init__(
        self,
        folder: ComparisonFolder,
        name: str,
        fingerprint: Mapping[str, Any],
        before: PackingCost,
        events: Events,
    ) -> None:
        self.folder, self.name, self.fingerprint = folder, name, fingerprint
        self.before, self.events = before, events
        self.resumed = False
        self.measurable, self.started = reset_peak_memory(), time.perf_counter()

    def unit(self, report: UnitReport, done: int, total: int) -> None:
        self.resumed |= report.resumed
        self.note(packed=False)
        self.events.progress("packing blocks", done, total)

    def progress(self, what: str, done: int, total: int) -> None:
        self.events.progress(what, done, total)

    def note(self, *, packed: bool) -> PackingCost:
        """Write and return what packing has taken; an interrupted run that is continued counts."""
        earlier = self.before if self.resumed else PackingCost()
        peak = peak_memory() if self.measurable else None
        cost = PackingCost(
            earlier.seconds + time.perf_counter() - self.started,
            None if peak is None else max(peak, earlier.peak_bytes or 0),
            packed=packed,
        )
        self.folder.write_cost(self.name, self.fingerprint, cost)
        return cost
