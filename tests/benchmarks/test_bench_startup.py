"""Start-up times: the table, and a command that fails."""

from __future__ import annotations

import sys

import pytest

import bench_startup
from bivlm.errors import InputError


def test_every_version_has_two_columns():
    times = {"presets": {"seconds": 1.234, "processor": 0.5}}
    columns, rows = bench_startup.table({"before": times, "now": times})
    assert columns == ["command", " s, before", " processor s, before", " s, now", " processor s, now"]
    assert rows == [["`bivlm presets`", "1.23", "0.50", "1.23", "0.50"]]


def test_a_command_that_fails_is_no_time(tmp_path):
    with pytest.raises(InputError, match=r"verify .* failed"):
        bench_startup.taken(sys.executable, ["verify", str(tmp_path / "none")], 1)


def test_the_processor_of_the_command_is_counted():
    found = bench_startup.taken(sys.executable, ["--version"], 1)
    assert 0 < found["processor"] < 60
    assert found["seconds"] > 0
