"""The scenes that the small mask model is trained on, and a training of a few steps."""

import json

import numpy as np
import pytest

from bivlm.eval.vision import see_all
from bivlm.loading import load
from bivlm.zoo.train_masks import HELD_OUT, LEAST, OBJECTS, SIDE, mask_samples, scene, train


def test_a_scene_is_the_same_for_the_same_seed():
    (image, boxes, masks), (again, *rest) = scene(3), scene(3)
    assert np.array_equal(np.asarray(image), np.asarray(again))
    assert rest == [boxes, masks]
    assert not np.array_equal(np.asarray(image), np.asarray(scene(4)[0]))


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_the_visible_parts_and_boxes_lie_around_them(seed):
    image, boxes, masks = scene(seed)
    assert image.size == (SIDE, SIDE)
    pixels = [np.asarray(mask) > 0 for mask in masks]
    assert len(boxes) == len(pixels) == OBJECTS
    assert not (pixels[0] & pixels[1]).any()
    for (x0, y0, x1, y1), mask in zip(boxes, pixels, strict=True):
        assert mask.sum() >= LEAST
        inside = mask[int(y0) : int(y1), int(x0) : int(x1)]
        assert inside.sum() == mask.sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()


def test_samples_are_apart_from_what_is_trained_on():
    (sample,) = mask_samples(1)
    assert sample.origin == f"scene {HELD_OUT}"
    assert len(sample.marks.boxes) == len(sample.marks.masks) == OBJECTS


@pytest.mark.slow
def test_a_short_training_writes_a_model_that_draws_masks(tmp_path):
    loss = train(tmp_path / "masks", steps=2)
    assert json.loads((tmp_path / "masks" / "training.json").read_text()) == {
        "steps": 2,
        "seed": 0,
        "loss": loss,
    }
    (seen,) = see_all(*load(tmp_path / "masks"), mask_samples(1))
    assert seen.masks.shape == (OBJECTS, SIDE, SIDE)
