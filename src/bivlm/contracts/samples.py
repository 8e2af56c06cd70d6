"""The questions that the contracts ask."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bivlm.types import Sample


def tiny_samples(count: int) -> list[Sample]:
    """Questions of growing length about seeded random images of different sizes and shapes; always the same
    ones.
    """
    rng = np.random.default_rng(0)
    questions = (
        "Is it red?",
        "What color is the square in the picture?",
        "How many circles are there? Answer yes or no, or green.",
    )
    sizes = ((48, 40), (64, 32), (30, 70))  # height, width
    samples = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        samples.append(Sample(image, questions[index % len(questions)], ("red",), f"tiny:{index + 1}"))
    return samples


def picture(sample: Sample) -> Image.Image:
    """The image of a tiny sample, which is in memory."""
    assert isinstance(sample.image, Image.Image)
    return sample.image
