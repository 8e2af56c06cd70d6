"""The result of a recount."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bivlm.recount.claims import Claim


@dataclass(frozen=True)
class PartRow:
    """One part of a model. `weights` counts all of the unpacked model's (biases and norms as well), None
    where a layout is not known; `packed` counts packed linears and tables, and `packed_weights` and
    `packed_bytes` are theirs alone. `stored_as` has the bytes of each layout, the largest first.
    """

    name: str
    weights: int | None
    nbytes: int
    packed: int
    packed_weights: int | None
    packed_bytes: int
    stored_as: Mapping[str, int]

    @property
    def bits(self) -> float | None:
        """Bits per weight of the part."""
        return _bits(self.nbytes, self.weights)

    @property
    def packed_bits(self) -> float | None:
        """Bits per weight of the packed linears alone."""
        return _bits(self.packed_bytes, self.packed_weights)


@dataclass(frozen=True)
class Recount:
    """What a checkpoint holds: rows by part, all tensors together, the bytes of its files (headers and
    padding as well), what is claimed, and remarks.
    """

    name: str
    files: int
    file_bytes: int
    tensors: int
    rows: tuple[PartRow, ...]
    total: PartRow
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...]

    @property
    def file_bits(self) -> float | None:
        """Bits of the files per weight."""
        return _bits(self.file_bytes, self.total.weights)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, with the bits."""
        rows = [
            {**asdict(row), "bits": row.bits, "packed_bits": row.packed_bits}
            for row in (*self.rows, self.total)
        ]
        return {**asdict(self), "rows": rows[:-1], "total": rows[-1], "file_bits": self.file_bits}


def _bits(nbytes: int, weights: int | None) -> float | None:
    return 8 * nbytes / weights if weights else None
