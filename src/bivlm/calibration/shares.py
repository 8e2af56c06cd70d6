"""Who adds to which sums, when several processes collect the statistics of a block together.

Every piece of a sum (moments.py) belongs to one rank, which adds the terms of all samples to it, in the order
of the samples: so every number is the sum that one process makes, term by term. Pieces are dealt out as they
come up, each to the rank that has least to add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bivlm.calibration.moments import pieces
from bivlm.crew import Crew
from bivlm.crew.dealing import add_to_least
from bivlm.types import Modality

Key = tuple[str, Literal["moment", "residual", "inputs"], Modality]  # of a linear


class Shares:
    """The ranks of all pieces of the sums. Every rank asks for the same sums in the same order."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._loads = [0.0] * crew.size
        self._holders: dict[Key, list[int]] = {}

    @property
    def holders(self) -> Mapping[Key, list[int]]:
        """The rank of every piece of every sum, in the order in which the sums came up."""
        return self._holders

    def mine(self, key: Key, columns: int) -> set[int]:
        """The numbers of the pieces of a sum (columns, columns) that this rank adds to."""
        if key not in self._holders:
            parts = [(slice(0, 1), slice(0, columns))]  # of kept inputs
            if key[1] != "inputs":
                parts = pieces(columns, key[1] == "moment")
            costs = [float((rows.stop - rows.start) * (own.stop - own.start)) for rows, own in parts]
            self._holders[key] = [add_to_least(self._loads, cost) for cost in costs]
        return {piece for piece, rank in enumerate(self._holders[key]) if rank == self.crew.rank}
