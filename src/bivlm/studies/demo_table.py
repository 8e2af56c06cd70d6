"""The demo's table: the same cells on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bivlm.studies.cells import Columns, interval, markdown_table, number, rich_table, size
from bivlm.studies.demo import DemoRow

COLUMNS: Columns = {
    "model": lambda row: row.name,
    "packed": lambda row: row.parts,
    " accuracy": lambda row: f"{row.accuracy:.1%}",
    " 95 % interval": lambda row: interval(row.interval),
    " KL": lambda row: f"{row.kl:.4f}",
    " true bits": lambda row: f"{row.bits_per_weight:.2f}",
    " paper bits": lambda row: number(row.paper_bits, ".3f"),
    " folder": lambda row: size(row.folder_bytes),
    " pack s": lambda row: f"{row.quantize_seconds:.1f}",
    " eval s": lambda row: f"{row.eval_seconds:.1f}",
}


def demo_table(rows: Sequence[DemoRow], questions: int) -> Table:
    """For the terminal."""
    table = rich_table(
        f"easy-VQA, {questions} test questions",
        COLUMNS,
        "true bits: of the packed linears, everything counted; folder: all files",
        expendable=(" eval s", " pack s", " paper bits", " 95 % interval"),
    )
    for row in rows:
        table.add_row(*(cell(row) for cell in COLUMNS.values()))
    return table


def demo_markdown(rows: Sequence[DemoRow]) -> str:
    """The table in Markdown, without a line end."""
    return "\n".join(
        markdown_table(list(COLUMNS), ([cell(row) for cell in COLUMNS.values()] for row in rows))
    )
