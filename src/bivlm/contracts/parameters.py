"""How the contracts pass their subjects to their tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest


def parametrize(
    metafunc: pytest.Metafunc, subjects: Mapping[str, Sequence[Any]], ids: Callable[[Any], str] = str
) -> None:
    """Run a test once for every subject of a kind that it asks for by name; one without a subject is skipped,
    and says so.
    """
    for name, several in subjects.items():
        if name in metafunc.fixturenames:
            nothing = pytest.param(None, marks=pytest.mark.skip(f"nothing here is {name!r}"), id="none")
            metafunc.parametrize(name, [pytest.param(one, id=ids(one)) for one in several] or [nothing])
