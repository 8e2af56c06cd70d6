"""Seconds by part: each counted once, in the innermost part."""

import pytest

from bivlm import profile
from bivlm.profile import OTHER, part, profiled


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    times = iter(range(100))
    monkeypatch.setattr(profile, "perf_counter", lambda: next(times) ** 2)


@pytest.mark.usefixtures("clock")
def test_a_second_belongs_to_the_innermost_part():
    with profiled() as seconds:  # 0
        with part("outer"), part("inner"):  # 1, 4
            pass  # 9
        with part("outer"):  # 16, 25
            pass  # 36
    assert seconds == {OTHER: 1 + (25 - 16) + (49 - 36), "outer": 3 + (16 - 9) + (36 - 25), "inner": 5}
    assert sum(seconds.values()) == 49


def test_a_part_ends_with_an_error_too():
    with profiled() as seconds, pytest.raises(ValueError, match="so"), part("outer"):
        raise ValueError("so")
    assert set(seconds) == {OTHER, "outer"}


def test_outside_nothing_is_measured():
    with part("outer"):
        pass
    with profiled() as seconds:
        pass
    assert set(seconds) == {OTHER}
