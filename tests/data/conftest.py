"""Pictures for data sets, and a cache of `datasets` that belongs to the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pictures import encoded


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with the pictures 0.png … 7.png, which all differ."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for shade in range(8):
        (folder / f"{shade}.png").write_bytes(encoded(shade))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
