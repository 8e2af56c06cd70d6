"""How the contracts pass their subjects to their tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest


def parametrize(
    metafunc: pytest.Metafunc, subjects: Mapping[str, Sequence[Any]], ids: Callable[[Any], str] = str
) -> None:
    """Run a test once for every subject of a kind that it asks for by name; one without a subject is skipped,
    and says so. Subjects that are `slow` have pytest's marker of this name.
    """
    slow = pytest.mark.slow
    for name, several in subjects.items():
        if name in metafunc.fixturenames:
            nothing = pytest.param(None, marks=pytest.mark.skip(f"nothing here is {name!r}"), id="none")
            found = [
                pytest.param(one, id=ids(one), marks=slow if getattr(one, "slow", False) else ())
                for one in several
            ]
            metafunc.parametrize(name, found or [nothing])
