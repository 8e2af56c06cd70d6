"""Pictures are written whole or not at all, and a missing matplotlib is told."""

from __future__ import annotations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bivlm.errors import InputError
from bivlm.studies.picture import require_matplotlib, save_picture


def test_a_missing_matplotlib_is_told(monkeypatch):
    require_matplotlib()
    monkeypatch.setattr("bivlm.studies.picture.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'bivlm\[plots\]'"):
        require_matplotlib()


def test_an_interrupted_picture_leaves_the_old_one(monkeypatch, tmp_path):
    figure = Figure(figsize=(1, 1))
    FigureCanvasAgg(figure)
    save_picture(figure, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def interrupt(self, path, format):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_picture(figure, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before
