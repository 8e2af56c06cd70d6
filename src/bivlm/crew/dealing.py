"""Who does what: samples in turn, other work by its cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def deal(costs: Sequence[float], size: int) -> list[int]:
    """The rank, 0 … size - 1, for each piece of work: the dearest first, each to the rank that has least to
    do (Graham, SIAM Journal on Applied Mathematics 17, 1969).
    """
    loads, owners = [0.0] * size, [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owners[place] = add_to_least(loads, costs[place])
    return owners


def add_to_least(loads: list[float], cost: float) -> int:
    """The rank that has least to do, the first of several; `loads` then has the new work."""
    rank = loads.index(min(loads))
    loads[rank] += cost
    return rank


def neighbours(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """Samples by their numbers, ascending, in runs of neighbours that all belong to different ranks: sample i
    belongs to rank i mod size.
    """
    together: list[int] = []
    for number in numbers:
        if any(number % size == other % size for other in together):
            yield together
            together = []
        together.append(number)
    if together:
        yield together
