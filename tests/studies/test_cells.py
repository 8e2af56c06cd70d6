"""Tables that fit the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bivlm.studies.cells import rich_table

HEADS = ("recipe", " linears", " weights", " true bits")


def shown(width, expendable=(" linears", " weights"), caption=""):
    table = rich_table("", HEADS, caption, expendable=expendable)
    table.add_row("model.language_model.layers.7", "7", "4,718,592", "2.061")
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def test_a_wide_terminal_has_all_columns():
    text = shown(120)
    assert all(head.strip() in text for head in HEADS)
    assert "left out" not in text


@pytest.mark.parametrize(
    ("width", "gone"),
    [(60, []), (52, ["linears"]), (46, ["linears", "weights"]), (20, ["linears", "weights"])],
)
def test_columns_go_in_their_order_and_that_is_said(width, gone):
    text = shown(width, caption="below")
    rows = [line for line in text.splitlines() if line[:1] in "┃│"]
    for head in ("linears", "weights"):
        assert (head in "".join(rows)) == (head not in gone)
    assert ("left out" in text) == bool(gone)
    assert "2.061" in text


def test_what_is_not_expendable_is_folded():
    assert "left out" not in shown(30, expendable=())
