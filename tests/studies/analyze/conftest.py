"""Quicker analyses."""

from __future__ import annotations

import pytest

from bivlm.studies.analyze import plot, weight


@pytest.fixture
def coarse(monkeypatch):
    """Two points of J for each linear, and a small picture: they are not what these tests look at."""
    monkeypatch.setattr(weight, "STEPS", 1)
    monkeypatch.setattr(plot, "DPI", 40)
