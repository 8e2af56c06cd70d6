"""Small pictures of what questions are about."""

import io

from PIL import Image

from bivlm.data.digests import Digests
from bivlm.eval.thumbnails import GAP, LONGEST, thumbnails
from bivlm.types import Sample

RED, WIDE = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (1000, 100), "blue")


def opened(samples):
    return {digest: Image.open(io.BytesIO(content)).convert("RGB") for digest, content in thumbnails(samples)}


def test_a_picture_for_every_different_set_of_images():
    samples = [Sample(RED, "What?"), Sample(RED, "Why?"), Sample(None, "Who?"), Sample((RED, WIDE), "Which?")]
    found = opened(samples)
    assert list(found) == [Digests().of_images(samples[0]), Digests().of_images(samples[3])]
    assert [picture.size for picture in found.values()] == [(40, 30), (40 + GAP + LONGEST, LONGEST // 10)]


def test_the_images_stand_next_to_each_other():
    (sheet,) = opened([Sample((RED, WIDE), "Which?")]).values()
    red, white, blue = (sheet.getpixel(place) for place in ((20, 15), (20, 31), (40 + GAP + 100, 16)))
    assert red[0] > 200 > 60 > red[2]
    assert min(white) > 240
    assert blue[2] > 200 > 60 > blue[0]


def test_the_images_given_stay_as_they_were():
    opened([Sample(WIDE, "What?")])
    assert WIDE.size == (1000, 100)
