"""The questions that the contracts ask."""

from __future__ import annotations

from collections.abc import Sequence

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


def mixed_samples() -> list[Sample]:
    """Questions about two images, about two in the midst of the text, about one, and about none."""
    first, second, third = map(picture, tiny_samples(3))
    return [
        Sample((first, second), "Which of them is green?", ("red",), "mixed:1"),
        Sample.of(("Is ", third, " or ", first, " red?"), ("red",), "mixed:2"),
        Sample(second, "How many circles are there?", ("red",), "mixed:3"),
        Sample(None, "Is it a square?", ("red",), "mixed:4"),
    ]


def opened(samples: Sequence[Sample]) -> list[list[Image.Image]]:
    """The images of samples that have them in memory."""
    return [[image for image in sample.images if isinstance(image, Image.Image)] for sample in samples]
