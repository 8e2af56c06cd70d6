"""What a sample is, in one text: equal for the same question, answers and images, wherever they are
stored.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from bivlm.data.files import file_digest
from bivlm.data.images import open_image
from bivlm.types import Picture, Sample


class Digests:
    """Digests of images and samples; every file is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of_image(self, picture: Picture, origin: str) -> str:
        """Equal for images of the same content: the bytes of a file, the pixels of an image in memory. Raises
        InputError, naming `origin`, for an image that cannot be read.
        """
        if not isinstance(picture, Path):
            image = open_image(picture, origin)
            return f"{image.size} {hashlib.sha256(image.tobytes()).hexdigest()}"
        if picture not in self._known:
            self._known[picture] = file_digest(picture, origin)
        return self._known[picture]

    def of_images(self, sample: Sample) -> str:
        """16 hexadecimal digits, equal for samples about the same images; empty without an image."""
        images = [self.of_image(picture, sample.origin) for picture in sample.images]
        return hashlib.sha256(repr(images).encode()).hexdigest()[:16] if images else ""

    def of_sample(self, sample: Sample) -> str:
        """Equal for samples of the same question, answers, images, places and system prompt."""
        images = [self.of_image(picture, sample.origin) for picture in sample.images]
        content = (sample.question, sample.answers, images, sample.places, sample.system)
        return hashlib.sha256(repr(content).encode()).hexdigest()
