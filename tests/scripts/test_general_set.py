"""The script of the built-in set makes what is shipped."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bivlm.data.general_set import general_folder

SCRIPTS = Path(__file__).parents[2] / "scripts" / "general_set"
TEXT_FIELDS = ("question", "answer", "kind", "language")


@pytest.fixture(scope="module")
def script():
    """The names of make.py; its neighbours are importable while it is read."""
    before = set(sys.modules)
    sys.path.insert(0, str(SCRIPTS))
    yield runpy.run_path(str(SCRIPTS / "make.py"))
    sys.path.remove(str(SCRIPTS))
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_texts_are_those_shipped(script):
    lines = (general_folder() / "samples.jsonl").read_text("utf-8").splitlines()
    shipped = [row for row in map(json.loads, lines) if not row["images"]]
    assert list(script["text_rows"]()) == shipped


@pytest.mark.slow
def test_it_makes_what_is_shipped(script, tmp_path):
    """The same text to the byte; of every picture the same pixels, but for what another version of a font
    library or an encoder changes.
    """
    made = tmp_path / "general"
    script["make"](made)
    shipped = general_folder()
    assert (made / "samples.jsonl").read_bytes() == (shipped / "samples.jsonl").read_bytes()
    names = sorted(path.name for path in (shipped / "images").iterdir())
    assert sorted(path.name for path in (made / "images").iterdir()) == names
    same_versions = (made / "README.md").read_text() == (shipped / "README.md").read_text()
    for name in names:
        new, old = made / "images" / name, shipped / "images" / name
        if same_versions:
            assert new.read_bytes() == old.read_bytes(), name
        difference = np.asarray(Image.open(new), dtype=int) - np.asarray(Image.open(old), dtype=int)
        assert np.abs(difference).mean() < 4, name
