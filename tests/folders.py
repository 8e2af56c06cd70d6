"""Two output folders that must be the same."""

from __future__ import annotations

import filecmp
from pathlib import Path


def assert_same_files(left: Path, right: Path) -> None:
    """The same names, and the same bytes in each."""
    names = {path.name for path in left.iterdir()}
    assert names == {path.name for path in right.iterdir()}
    _, different, unreadable = filecmp.cmpfiles(left, right, names, shallow=False)
    assert not different
    assert not unreadable
