"""Bars and tables for notebooks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import bivlm
from bivlm.eval.inspection import Inspection, InspectRow
from bivlm.notebook import html_table
from bivlm.studies.compare.result import Comparison, ComparisonRow
from tiny import tiny_checkpoint


def test_texts_are_escaped_and_numbers_stand_right():
    table = html_table(("a<b", ""), [("x & y", "1.5")])
    assert "<th>a&lt;b</th>" in table
    assert "<td>x &amp; y</td>" in table
    assert '<td style="text-align:right">1.5</td>' in table


def test_bars_follow_a_job(tmp_path, capsys):
    source = tiny_checkpoint("llava", tmp_path / "model")
    with bivlm.Bars() as bars:
        bivlm.quantize(source, tmp_path / "out", recipe="rtn-2", events=bars)
    error = capsys.readouterr().err
    assert "blocks: 100%" in error
    assert "bits, error" in error
    assert not bars._bars
    shown = bivlm.inspect(tmp_path / "out")._repr_html_()
    assert "rtn-2" in shown
    assert "<td>total</td>" in shown


def test_bars_that_are_left_unfinished_are_closed(capsys):
    with bivlm.Bars() as bars:
        bars.progress("questions", 1, 3)
        bars.unit(SimpleNamespace(weights={}), 1, 2)
        bars.say("a line")
        assert set(bars._bars) == {"questions", "blocks"}
    assert not bars._bars
    both = capsys.readouterr()
    assert "1/3" in both.err
    assert "kept" in both.err
    assert both.out == "a line\n"


@pytest.mark.parametrize(("paper", "shown"), [(None, "<td></td>"), (1.08, "1.080</td>")])
def test_an_inspection_shows_its_parts(paper, shown):
    row = InspectRow("vision", 2, 1000, 2000, 250, 2.0, paper)
    table = Inspection("mine", (row,), (), row, 4000, 900)._repr_html_()
    assert "<th>mine</th>" in table
    assert table.count(shown) == 2


def test_a_comparison_shows_what_failed():
    fields = dict.fromkeys(ComparisonRow.__dataclass_fields__)
    row = ComparisonRow(**{**fields, "preset": "rtn-2", "parts": (), "failure": "no room", "draws": ()})
    found = Comparison((row,), False, "m", 1, "exact", 0, "", "", ())
    assert "<td>rtn-2</td>" in found._repr_html_()
    assert "<td>failed</td>" in found._repr_html_()
