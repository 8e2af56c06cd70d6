"""Events as people see them: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from bivlm.cli.progress import Shown

REPORT = SimpleNamespace(
    path="layers.0", weights={"q": None}, bits_per_weight=2.0, error=0.5, resumed=False, seconds=1.0
)


def shown(terminal, lines=False):
    file = io.StringIO()
    return Shown(Console(file=file, force_terminal=terminal, width=150), lines=lines), file


def test_units_are_lines_where_there_is_no_terminal():
    events, file = shown(False)
    with events:
        events.unit(REPORT, 1, 2)
        events.unit(SimpleNamespace(**{**vars(REPORT), "path": "norm", "weights": {}, "resumed": True}), 2, 2)
    first, second = file.getvalue().splitlines()
    assert first.startswith("block 1/2  layers.0  2.00 bpw  error 0.5000  ")
    assert first.endswith(" GB  1.0 s")
    assert second.startswith("block 2/2  norm  kept  ")
    assert second.endswith(" GB  (from the earlier run)  1.0 s")


@pytest.mark.parametrize("lines", [False, True])
def test_steps_are_lines_when_asked_for(lines):
    events, file = shown(False, lines)
    with events:
        events.progress("blocks measured", 1, 2)
        events.say("a [bold] line")
    assert file.getvalue().splitlines() == [*(["blocks measured 1/2"] if lines else []), "a [bold] line"]


def test_a_terminal_shows_what_goes_on_and_keeps_the_units():
    events, file = shown(True)
    with events:
        events.progress("questions", 1, 3)
        (step,) = events.bars.tasks
        assert (step.description, step.completed, step.total) == ("questions", 1, 3)
        events.progress("blocks measured", 2, 2)
        assert (step.description, step.completed, step.total) == ("blocks measured", 2, 2)
        events.unit(REPORT, 1, 2)
        assert not step.visible
        events.say("one line")
    (units,) = events.bars.tasks
    assert (units.description, units.completed, units.total) == ("blocks", 1, 2)
    assert units.fields["last"].startswith("2.00 bpw  error 0.5000  ")
    assert units.fields["last"].endswith("  layers.0")
    assert "one line" in file.getvalue()
    assert "block 1/2" not in file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_keeps_bar_share_and_time(width):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    events = Shown(console)
    with events:
        long = SimpleNamespace(**{**vars(REPORT), "path": "model.language_model.layers.7"})
        events.unit(long, 1, 2)
        console.print(events.bars.get_renderable())
    line = next(line for line in file.getvalue().splitlines() if "2.00 bpw" in line)
    shown_line = line.rpartition("\x1b[2K")[2]
    assert shown_line.startswith("blocks ━━━━")
    assert " 1/2 -:--:-- 2.00 bpw" in shown_line
    assert len(shown_line) <= width
