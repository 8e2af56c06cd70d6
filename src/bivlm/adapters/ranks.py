"""How many components the adapter of each linear has: the same everywhere, or as many as a budget of bits
allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush

from bivlm.adapters.rounding import component_bits
from bivlm.errors import InputError

Shapes = Mapping[str, tuple[int, int]]  # (out, in) of linears by their names


def same_rank(shapes: Shapes, rank: int) -> dict[str, int]:
    """The same rank for every linear, at most the smaller of its sizes: more would add nothing."""
    return {name: min(rank, *shape) for name, shape in shapes.items()}


def ranks_within(shapes: Shapes, budget: float, bits: int) -> dict[str, int]:
    """As many components as `budget` stored bits allow, factors in `bits` bits each.

    They are given one by one, always to the linear that then has the fewest adapter bits per weight, so that
    all linears get about the same share. Linears without a component are left out. Raises InputError if the
    budget is not enough for a single one.
    """
    ranks = dict.fromkeys(shapes, 0)
    waiting: list[tuple[float, int, str]] = []

    def propose(place: int, name: str) -> None:
        shape = shapes[name]
        if ranks[name] < min(shape):
            after = (ranks[name] + 1) * component_bits(shape, bits) / (shape[0] * shape[1])
            heappush(waiting, (after, place, name))

    for place, name in enumerate(shapes):
        propose(place, name)
    left = budget
    while waiting:
        _, place, name = heappop(waiting)
        cost = component_bits(shapes[name], bits)
        if cost <= left:
            left -= cost
            ranks[name] += 1
            propose(place, name)
    if not any(ranks.values()):
        least = min(component_bits(shape, bits) for shape in shapes.values())
        raise InputError(
            f"the budget allows {budget:.0f} bits for adapters, and one component takes {least} at least;"
            " give more bits"
        )
    return {name: rank for name, rank in ranks.items() if rank}


def adapter_bits(shapes: Shapes, ranks: Mapping[str, int], bits: int) -> int:
    """The stored bits of an adapter of these ranks, scales included."""
    return sum(rank * component_bits(shapes[name], bits) for name, rank in ranks.items())
