"""The tables of a recount."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from bivlm.errors import printable
from bivlm.recount.result import PartRow, Recount
from bivlm.studies.cells import number, rich_table, size

BITS = ".3f"
HEADS = ("part", " weights", " bytes", " bits per weight", " packed", " bits of the packed", "stored as")
SHOWN = 4  # layouts in a cell


def recount_table(found: Recount) -> Table:
    """One model: its parts, all tensors, its files; claims and remarks below."""
    table = rich_table(
        _safe(found.name), HEADS, "\n".join(_below(found)), expendable=("stored as", " bytes", " packed")
    )
    for row in found.rows:
        _add(table, row)
    table.add_section()
    _add(table, found.total)
    files = "1 file" if found.files == 1 else f"{found.files} files"
    table.add_row(files, _weights(found.total), size(found.file_bytes), _bits(found.file_bits), "", "", "")
    return table


def overview_table(found: Sequence[Recount]) -> Table:
    """A row for each model."""
    heads = ("model", " claimed", " files", " bits, all", " vision", " language", " embedding")
    table = rich_table("", heads)
    for one in found:
        bits = {row.name: row.bits for row in one.rows}
        claimed = one.claims[0].bits if one.claims else None
        table.add_row(
            _safe(one.name),
            number(claimed, "g"),
            size(one.file_bytes),
            _bits(one.file_bits),
            *(_bits(bits[part]) if part in bits else "" for part in ("vision", "language", "embedding")),
        )
    return table


def _add(table: Table, row: PartRow) -> None:
    kinds = [f"{_safe(kind)} {nbytes / max(row.nbytes, 1):.0%}" for kind, nbytes in row.stored_as.items()]
    more = [f"{len(kinds) - SHOWN} more"] if len(kinds) > SHOWN else []
    table.add_row(
        row.name,
        _weights(row),
        size(row.nbytes),
        _bits(row.bits),
        str(row.packed) if row.packed else "",
        _bits(row.packed_bits) if row.packed else "",
        ", ".join([*kinds[:SHOWN], *more]),
    )


def _below(found: Recount) -> list[str]:
    lines = [
        f"{claim.where}: {_safe(claim.words)}, that is {claim.bits:g}; counted: {_bits(found.file_bits)}"
        for claim in found.claims
    ]
    return [*(lines or ["nothing here claims a number of bits"]), *map(_safe, found.remarks)]


def _safe(text: str) -> str:
    """A stranger's text as a table may hold it: no markup, no codes for the terminal."""
    return escape(printable(text))


def _weights(row: PartRow) -> str:
    return "unknown" if row.weights is None else f"{row.weights:,}"


def _bits(bits: float | None) -> str:
    return "unknown" if bits is None else format(bits, BITS)
