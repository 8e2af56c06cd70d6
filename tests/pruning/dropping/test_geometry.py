"""Images dealt out to the prompts that they belong to."""

from __future__ import annotations

import pytest

from bivlm.pruning.dropping.geometry import dealt


@pytest.mark.parametrize(
    ("shapes", "counts", "images"),
    [
        ([(2, 3)], [6], [[(2, 3)]]),
        ([(2, 3), (1, 4), (5, 1)], [10, 5], [[(2, 3), (1, 4)], [(5, 1)]]),
        ([(2, 3)], [0, 6], [[], [(2, 3)]]),  # a prompt without an image
        ([], [0], [[]]),
        ([(2, 3)], [5], None),  # fewer tokens than the image has
        ([(2, 3)], [7], None),
        ([(2, 3), (1, 1)], [6], None),  # an image too many
    ],
)
def test_prompts_get_their_images_in_order(shapes, counts, images):
    assert dealt(shapes, counts) == images
