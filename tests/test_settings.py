"""Settings in words."""

from __future__ import annotations

import pytest

from bivlm.errors import InputError
from bivlm.pruning.grid import GridPruner
from bivlm.settings import build, parse_settings


def test_values_are_json_or_text():
    assert parse_settings(["a=1", "b=0.5", "c=true", "d=balanced", "e=null", "f=x=y", " g = 2 "]) == {
        "a": 1, "b": 0.5, "c": True, "d": "balanced", "e": None, "f": "x=y", "g": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["bands"], "no NAME=VALUE"), (["=2"], "no NAME=VALUE"), (["a=1", "b=2", "a=1"], "a is given twice")],
)
def test_what_is_no_pair_is_told(pairs, message):
    with pytest.raises(InputError, match=message):
        parse_settings(pairs)


def test_what_has_no_settings_says_so():
    with pytest.raises(InputError, match=r"pruner grid: size=2 is refused: .*; its settings are none"):
        build(GridPruner, {"size": 2}, "pruner grid")
