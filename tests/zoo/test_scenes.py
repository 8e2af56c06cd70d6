"""The scenes that the small embedding model is trained on: as the captions say, and the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from bivlm.zoo import scenes as module
from bivlm.zoo.scenes import CAPTIONS, COLOURS, FORMS, PLACES, SIDE, SIZES, Shape, alike, rendered, scenes

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
    assert len({one.caption for one in scenes(CAPTIONS, 0)}) == CAPTIONS == 432
    with pytest.raises(ValueError, match="432 captions"):
        scenes(CAPTIONS + 1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_scenes_that_are_alike_differ_in_one_thing_each(seed: int):
    first, *others = alike(np.random.default_rng(seed))
    names = ("size", "colour", "form", "place")
    for name, other in zip(names, others, strict=True):
        assert [one for one in names if getattr(first, one) != getattr(other, one)] == [name]
        assert other.caption != first.caption


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_picture_shows_what_its_caption_says(form: str, place: str, monkeypatch: pytest.MonkeyPatch):
    """Without grain and shades: the colour is there, and the shape has its place and its size."""
    monkeypatch.setattr(module, "MOST_GRAIN", 0.0)
    monkeypatch.setattr(module, "SHADE", 0.0)
    for number, (size, (least, most)) in enumerate(SIZES.items()):
        colour = list(COLOURS)[number]
        pixels = np.asarray(rendered(Shape(size, colour, form, place), QUIET))
        assert pixels.shape == (SIDE, SIDE, 3)
        own = (pixels == COLOURS[colour]).all(-1)
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        for found, expected in zip((rows, columns), divmod(PLACES.index(place), 3), strict=True):
            middle = (found[0] + found[-1] + 1) / 2
            field = (SIDE - 2 * module.EDGE) / 3
            begin = module.EDGE + expected * field
            assert begin - 2 <= middle <= begin + field + 2  # whole pixels
            assert least - 2 <= found[-1] - found[0] + 1 <= most + 2
