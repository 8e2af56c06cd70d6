"""What a sample is, in one text: equal for the same question, answers and images, wherever they are
stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from PIL import ImageFile

from bivlm.data.files import file_digest
from bivlm.data.images import open_image
from bivlm.types import Picture, Sample, Video, Visual

SHORT = 16  # hexadecimal digits that a folder remembers of each question


class Digests:
    """Digests of images and samples; every file is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of_image(self, picture: Picture, origin: str) -> str:
        """Equal for images of the same content: the bytes of a file, also where a data set holds them; the
        pixels of a decoded image. Raises InputError, naming `origin`, for an image that cannot be read.
        """
        if isinstance(picture, ImageFile.ImageFile) and picture.fp is not None and picture.tile:
            picture.fp.seek(0)
            return hashlib.sha256(picture.fp.read()).hexdigest()
        if not isinstance(picture, Path):
            image = open_image(picture, origin)
            return f"{image.size} {hashlib.sha256(image.tobytes()).hexdigest()}"
        if picture not in self._known:
            self._known[picture] = file_digest(picture, origin)
        return self._known[picture]

    def of_visual(self, visual: Visual, origin: str) -> str:
        """As `of_image`; of a video all its frames, whichever are read, or the bytes of its file."""
        if not isinstance(visual, Video):
            return self.of_image(visual, origin)
        source = visual.source if isinstance(visual.source, tuple) else (visual.source,)
        frames = [self.of_image(one, f"{origin}: the video") for one in source]
        return f"video {hashlib.sha256(repr(frames).encode()).hexdigest()}"

    def of_images(self, sample: Sample) -> str:
        """16 hexadecimal digits, equal for samples about the same images and videos; empty without any."""
        images = [self.of_visual(visual, sample.origin) for visual in sample.visuals]
        return hashlib.sha256(repr(images).encode()).hexdigest()[:16] if images else ""

    def of_sample(self, sample: Sample) -> str:
        """Equal for samples of the same question, answers, images, places, system prompt and earlier turns,
        of the same frames of the same videos, and with the same boxes and points.
        """
        images = [self.of_visual(visual, sample.origin) for visual in sample.visuals]
        content = (sample.question, sample.answers, images, sample.places, sample.system)
        earlier = (_earlier(sample),) if sample.turns else ()
        earlier += tuple((video.most, video.fps) for video in sample.videos)
        if sample.marks is not None:
            earlier += ((sample.marks.boxes, sample.marks.points, sample.marks.labels),)
        return hashlib.sha256(repr((*content, *earlier)).encode()).hexdigest()

    def of_question(self, sample: Sample, with_images: bool = True) -> str:
        """SHORT digits, equal for the same question about the same images after the same turns, whatever its
        answers. `with_images` False is for a model that reads none.
        """
        images = [self.of_visual(visual, sample.origin) for visual in sample.visuals if with_images]
        content = (sample.question, images, sample.system, _earlier(sample))
        return hashlib.sha256(repr(content).encode()).hexdigest()[:SHORT]

    def apart(self, sample: Sample) -> list[str]:
        """What a sample must not share with one on the other side of a split: its images, or its question
        where it has none. 64 hexadecimal digits each.
        """
        shared = [self.of_visual(visual, sample.origin) for visual in sample.visuals]
        return [hashlib.sha256(one.encode()).hexdigest() for one in shared or [f"? {sample.question}"]]


def are_apart(asked: Iterable[Sample], calibrated: Iterable[Sample]) -> bool:
    """Whether no image that was calibrated on is asked about, nor a question without one; False if nothing
    was calibrated on.
    """
    digests = Digests()
    first, second = (
        {one for sample in some for one in digests.apart(sample)} for some in (asked, calibrated)
    )
    return bool(second) and not first & second


def _earlier(sample: Sample) -> list[tuple[str, str]]:
    return [
        ("".join(part for part in turn.parts if isinstance(part, str)), turn.answer) for turn in sample.turns
    ]
