"""The tables of a comparison: one row a run, the same cells in Markdown and on the terminal, narrower where
the terminal is narrow.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from bivlm.studies.compare.result import COMBINATIONS, FULL_PRECISION, Comparison, ComparisonRow, by_true_bits
from bivlm.studies.compare.table import comparison_markdown, comparison_table, remarks
from bivlm.types import PARTS

FULL = ComparisonRow(
    FULL_PRECISION, FULL_PRECISION, (), 90, 0.97, (0.95, 0.98), 0.0, 1.0, 16.0, None, 15_340_000
)
ROW = ComparisonRow(
    "billm-2", "billm", PARTS, 90, 0.9, (0.88, 0.92), 0.0123, 0.95, 2.25, 1.08, 7_000_000, 12.34, 600_000_000
)
FAILED = ComparisonRow("dbf-1", "dbf", PARTS, failure="layers.0 | too narrow")


def comparison(*rows, study=False, notes=()):
    return Comparison(
        (*rows, FULL), study, "easy", 90, "exact_match", 32, "a machine", "bivlm compare X", notes
    )


def markdown_rows(found):
    lines = [line for line in comparison_markdown(found, picture=None).splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").replace("\\|", "¦").split("|")]
        for line in (lines[0], *lines[2:])
    ]


def printed(found, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115 - the record is what is read
    console.print(comparison_table(found))
    console.file.close()
    return console.export_text()


def test_a_row_says_everything():
    head, row, full = markdown_rows(comparison(ROW))
    assert dict(zip(head, row, strict=True)) == {
        "preset": "billm-2", "parts": "all", "accuracy": "90.0%", "95 % interval": "88.0% to 92.0%",
        "KL": "0.0123", "top-1 agreement": "95.0%",
        "true bits": "2.25", "paper bits": "1.08", "folder": "7.00 MB", "pack s": "12.3",
        "peak memory": "600.00 MB",
    }  # fmt: skip
    assert full[:5] == [FULL_PRECISION, "", "97.0%", "95.0% to 98.0%", "0.0000"]


def test_what_no_row_has_is_no_column():
    assert "peak memory" not in markdown_rows(comparison(replace(ROW, peak_bytes=None)))[0]
    assert "paper bits" not in markdown_rows(comparison(replace(ROW, paper_bits=None)))[0]


@pytest.mark.parametrize(
    ("kl", "shown"), [(0.0, "0.0000"), (0.00012, "1.2e-04"), (0.001, "0.0010"), (1.5, "1.5000")]
)
def test_small_divergences_keep_their_digits(kl, shown):
    assert markdown_rows(comparison(replace(ROW, kl=kl)))[1][4] == shown


def test_failures_and_notes_stand_below():
    found = comparison(ROW, FAILED, notes=("mind this",))
    assert markdown_rows(found)[2][:3] == ["dbf-1", "all", "failed"]
    assert remarks(found)[1:] == ["failed: dbf-1: layers.0 | too narrow", "Note: mind this."]
    assert "failed: dbf-1: layers.0 \\| too narrow" in comparison_markdown(found, picture=None)


def test_the_study_checks_the_parts():
    rows = [replace(ROW, parts=parts) for parts in COMBINATIONS]
    head, *table = markdown_rows(comparison(*rows, study=True))
    assert head[:4] == ["preset", *PARTS]
    for parts, row in zip(COMBINATIONS, table, strict=False):
        assert tuple(part for part, cell in zip(PARTS, row[1:4], strict=True) if cell) == parts


def test_a_page_has_picture_machine_and_command():
    page = comparison_markdown(comparison(ROW), picture="x.png")
    assert "](x.png)" in page
    assert "Machine: a machine." in page
    assert page.endswith("Command:\n\n    bivlm compare X\n")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_terminal_shows_what_fits_and_cuts_nothing(width):
    text = printed(
        comparison(ROW, replace(ROW, preset="billm-2:group_size=64,modality_weight=balanced")), width
    )
    assert "…" not in text
    for needed in ("accuracy", "KL", "true bits", "90.0%", "0.0123", "2.25"):
        assert needed in text
    rows = "".join(line for line in text.splitlines() if line[:1] in "┃│")
    assert ("peak memory" in rows) == (width == 200)
    assert ("left out" in text) == (width < 200)


def test_order_by_bits_full_precision_and_failures_last():
    rows = [FAILED, FULL, replace(ROW, true_bits=3.0), ROW]
    assert [row.true_bits for row in sorted(rows, key=by_true_bits)] == [2.25, 3.0, 16.0, None]
