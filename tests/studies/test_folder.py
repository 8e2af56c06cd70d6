"""Fingerprints know what decides a run's numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from bivlm.errors import InputError
from bivlm.studies.folder import digests
from bivlm.types import Sample
from tiny import tiny_samples


def test_digests_know_questions_answers_and_pixels(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b.png")
    one = Sample(tmp_path / "a.png", "why?", ("red",), "a:1")
    assert digests([one]) == digests([replace(one, image=tmp_path / "b.png", origin="b:9")])
    for other in (replace(one, question="how?"), replace(one, answers=("blue",)), tiny_samples(1)[0]):
        assert digests([one]) != digests([other])
    with pytest.raises(InputError, match="a:1: the image"):
        digests([replace(one, image=tmp_path / "none.png")])
