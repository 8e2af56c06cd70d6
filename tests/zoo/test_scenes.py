"""The scenes that the small embedding model is trained on: as the captions say, and the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from bivlm.zoo import scenes as module
from bivlm.zoo.scenes import CAPTIONS, COLOURS, FORMS, GROUNDS, Shape, alike, rendered, rounds, scenes

QUIET = np.random.default_rng(1)


def test_the_same_seed_gives_the_same_scenes_and_a_larger_count_begins_with_them():
    first, more = scenes(6, 3), scenes(9, 3)
    assert [one.caption for one in first] == [one.caption for one in more[:6]]
    assert all(
        np.array_equal(np.asarray(one.image), np.asarray(other.image))
        for one, other in zip(first, more, strict=False)
    )
    assert [one.caption for one in scenes(6, 4)] != [one.caption for one in first]


def test_captions_are_different_and_there_are_no_more_than_all():
    assert len({one.caption for one in scenes(CAPTIONS, 0)}) == CAPTIONS == 192
    with pytest.raises(ValueError, match="192 captions"):
        scenes(CAPTIONS + 1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_scenes_that_are_alike_differ_in_one_thing_each(seed: int):
    first, *others = alike(np.random.default_rng(seed))
    names = ("colour", "form", "ground")
    for name, other in zip(names, others, strict=True):
        assert [one for one in names if getattr(first, one) != getattr(other, one)] == [name]
        assert other.caption != first.caption


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_a_picture_shows_what_its_caption_says(form: str, ground: str, monkeypatch: pytest.MonkeyPatch):
    """Without grain and shades: two colours, and as much of the shape as its form fills."""
    monkeypatch.setattr(module, "SHADE", 0.0)
    monkeypatch.setattr(module, "MOST_GRAIN", 0.0)
    for colour in COLOURS:
        pixels = np.asarray(rendered(Shape(colour, form, ground), QUIET))
        own = (pixels == COLOURS[colour]).all(-1)
        assert (pixels[~own] == module.ground_of(ground)).all()
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert height == width
        assert module.LEAST_SIZE <= height - 1 <= module.MOST_SIZE
        filled = {"circle": np.pi / 4, "rectangle": 1.0, "triangle": 0.5}[form]
        assert own.sum() / (height * width) == pytest.approx(filled, abs=0.07)


def test_rounds_are_other_pictures_of_the_same_captions():
    found = rounds(5, 3, 7)
    assert [one.caption for one in found] == [one.caption for one in scenes(5, 7)] * 3
    assert len({one.image.tobytes() for one in found}) == 15
