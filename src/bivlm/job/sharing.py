"""A job that several processes do together: who quantizes which weights, and a store that only the first rank
has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from torch import Tensor

from bivlm.crew import Crew
from bivlm.job.plan import WeightPlan
from bivlm.job.unit import MadeUnit, Packed, Rows, UnitStore, Vectors


def owners_of(
    weights: Sequence[WeightPlan], crew: Crew, key_of: Callable[[str], str | None] | None = None
) -> dict[str, int]:
    """The rank that quantizes each weight, by its name, dealt out by cost. Linears with the same statistics
    (`key_of`) stay together, so that these are brought to one rank.

    A weight (out, in) costs out · in², and the factorization of its second moment in³ / 3 operations.
    """
    groups: dict[str, list[WeightPlan]] = {}
    for weight in weights:
        key = None if key_of is None else key_of(weight.name)
        groups.setdefault(key or weight.name, []).append(weight)
    costs = []
    for group in groups.values():
        columns = group[0].shape[1]
        costs.append(columns**3 / 3 + sum(math.prod(weight.shape) * columns for weight in group))
    ranks = crew.deal(costs)
    return {weight.name: rank for group, rank in zip(groups.values(), ranks, strict=True) for weight in group}


class SharedStore:
    """The store of the first rank as all ranks of a crew see it. `paths` are those of all units."""

    def __init__(self, crew: Crew, store: UnitStore | None, paths: Collection[str]) -> None:
        self.crew, self._store = crew, store
        own = None if store is None else {path for path in paths if store.is_done(path)}
        self._done: set[str] = set(crew.broadcast(own) or ())

    def is_done(self, path: str) -> bool:
        return path in self._done

    def write_unit(self, path: str, packed: Packed, report: Rows, vectors: Vectors) -> None:
        if self._store is not None:
            self._store.write_unit(path, packed, report, vectors)
        self._done.add(path)

    def read_unit(self, path: str) -> tuple[Packed, Vectors, Rows]:
        found = self.crew.broadcast(None if self._store is None else self._store.read_unit(path))
        assert found is not None
        return found

    def replace_units(self, units: Iterable[MadeUnit], outside: Mapping[str, Tensor]) -> None:
        if self._store is not None:
            self._store.replace_units(units, outside)
