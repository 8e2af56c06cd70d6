"""Small pictures of what questions are about, for people who read the records."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import accumulate

from PIL import Image

from bivlm.data.digests import Digests
from bivlm.data.videos import shown_image
from bivlm.types import Sample

LONGEST = 320  # pixels of a side
GAP = 4  # pixels between the images of one question


def thumbnails(samples: Sequence[Sample]) -> Iterator[tuple[str, bytes]]:
    """For every different set of images its digest, as in the records, and a WebP file with the images next
    to each other. Raises InputError, naming the sample, for an image that cannot be read.
    """
    known, seen = Digests(), set()
    for sample in samples:
        digest = known.of_images(sample)
        if digest and digest not in seen:
            seen.add(digest)
            yield digest, _webp([shown_image(one, sample.origin) for one in sample.visuals])


def _webp(images: Sequence[Image.Image]) -> bytes:
    small = [image.copy() for image in images]
    for image in small:
        image.thumbnail((LONGEST, LONGEST))
    places = [0, *accumulate(image.width + GAP for image in small)]
    sheet = Image.new("RGB", (places[-1] - GAP, max(image.height for image in small)), "white")
    for image, place in zip(small, places, strict=False):
        sheet.paste(image, (place, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, format="WEBP", quality=80)
    return buffer.getvalue()
