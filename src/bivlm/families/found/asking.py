"""Inputs for a small model from the processor of the model's own folder: a question about an image, the same
about another image, and another question.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bivlm.families.base import Stack
from bivlm.families.found.structure import family_from
from bivlm.families.found.synthetic import Three
from bivlm.families.processors import load_processor
from bivlm.types import Sample

SIZE, OTHER_SIZE = (224, 160), (112, 196)  # width and height in pixels
QUESTIONS = ("Is the square in this image red?", "How many circles are on the table?")


class Asking:
    """Asks with a folder's processor. Raises InputError when it is made, if the processor cannot be used."""

    def __init__(
        self,
        folder: Path,
        model_type: str,
        auto_class: str,
        takes: tuple[str, ...] = (),
        trust_remote_code: bool = False,
    ) -> None:
        blind = family_from(model_type, auto_class, (), (), None, 0, takes)
        self.reads_images = blind.reads_images
        self.processor = load_processor(folder, self.reads_images, trust_remote_code=trust_remote_code)
        prompt = "{image}{question}" if self.reads_images else "{bos}{question}"
        self.family = replace(
            blind, stacks=(Stack("vision", ""),) if self.reads_images else (), prompt=prompt
        )

    def __call__(self, model: Any) -> Three:
        """The three inputs; the model is not needed for them."""
        asked = self._inputs(QUESTIONS[0], 1)
        other = self._inputs(QUESTIONS[0], 2) if self.reads_images else None
        return Three(asked, other, self._inputs(QUESTIONS[1], 1), self._two_images())

    def _inputs(self, question: str, seed: int) -> dict[str, Any]:
        image = _picture(seed)
        sample = Sample(image=image if self.reads_images else None, question=question, answers=("yes",))
        return dict(self.family.inputs(self.processor, [sample], [image]))

    def _two_images(self) -> tuple[dict[str, Any], ...]:
        """A question about two images of different sizes; or two questions, if the processor takes one image
        alone. None if it takes neither.
        """
        if not self.reads_images:
            return ()
        pair = _picture(3), _picture(4, OTHER_SIZE)
        for images in ([pair], [[one] for one in pair]):
            samples = [Sample(tuple(own), QUESTIONS[0], ("yes",)) for own in images]
            with suppress(Exception):  # of a processor of unknown code
                return (dict(self.family.inputs(self.processor, samples, images)),)
        return ()


def _picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image of noise: every patch differs from every other."""
    width, height = size
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(values.numpy())
