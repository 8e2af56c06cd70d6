"""Pixels as a processor takes them: what each kind of image becomes, and what each kind of damage says."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bivlm.data import images
from bivlm.data.images import FORMATS, open_image, open_undecoded
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError
from bivlm.types import Sample

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Different in every pixel, so that a turn, a flip or a wrong stride shows."""
    width, height = size
    return Image.fromarray(
        np.arange(3 * width * height, dtype=np.uint32).reshape(height, width, 3).astype(np.uint8)
    )


def pixels(image: Image.Image) -> list[list[tuple[int, ...]]]:
    return [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_the_camera_s_orientation_is_undone(orientation: int, turned, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo(), exif=exif))
    assert np.array_equal(np.asarray(open_image(path)), turned(np.asarray(photo())))


def test_the_first_frame_of_an_animation_counts(tmp_path: Path):
    path = tmp_path / "moving.gif"
    Image.new("RGB", (2, 2), GREEN).save(path, save_all=True, append_images=[Image.new("RGB", (2, 2), BLUE)])
    assert open_image(path).getpixel((0, 0)) == GREEN


def test_an_image_in_memory_stays_as_it_is():
    image = photo()
    opened = open_image(image)
    assert opened is not image
    opened.putpixel((0, 0), RED)
    assert np.array_equal(np.asarray(image), np.asarray(photo()))


def test_an_undecoded_image_gives_its_pixels_again_and_again_and_keeps_none():
    image = open_undecoded(io.BytesIO(encoded(photo())), "set:3")
    sample = Sample(image, "?")
    for _ in range(2):
        assert np.array_equal(np.asarray(open_visuals([sample])[0][0]), np.asarray(photo()))
    assert image.tile, "the sample's own image was decoded"
    assert np.array_equal(np.asarray(image), np.asarray(photo())), "it can still be decoded by others"
    assert np.array_equal(np.asarray(open_visuals([sample])[0][0]), np.asarray(photo())), (
        "and be read after that"
    )


@pytest.mark.parametrize("kind", ["PNG", "ICO"])
def test_what_was_drawn_on_an_opened_image_is_seen(kind: str):
    """An icon holds on to its file after it was decoded; others let go of it."""
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (16, 16), GREEN), kind)))
    image.paste(Image.new("RGB", (16, 16), RED))
    assert open_image(image).getpixel((0, 0)) == RED


# ---- damage


def refusal(sample: Sample) -> str:
    with pytest.raises(InputError) as caught:
        open_visuals([sample])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_file_is_named_with_its_origin(tmp_path: Path):
    message = refusal(Sample(tmp_path / "cat.png", "?", origin="vqa.jsonl:12"))
    assert message.startswith(f"vqa.jsonl:12: the image {tmp_path / 'cat.png'} does not exist")


def test_a_folder_is_no_image(tmp_path: Path):
    assert refusal(Sample(tmp_path, "?")).startswith(f"the image {tmp_path} is a folder, and no file;")


@pytest.mark.parametrize(
    "content",
    [b"", b"no image at all", encoded(photo())[:60], encoded(photo(), "JPEG")[:400]],
    ids=["empty", "text", "png", "jpeg"],
)
def test_what_is_no_whole_image_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert refusal(Sample(path, "?", origin="vqa.jsonl:12")).startswith(
        f"vqa.jsonl:12: the image {path} cannot be read as an image ("
    )


KINDS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")


@given(
    cut=st.integers(0, 2000), kind=st.sampled_from(KINDS), flips=st.lists(st.integers(0, 2000), max_size=4)
)
@settings(deadline=None, max_examples=150)
def test_any_damage_gives_an_image_or_one_clear_line(cut: int, kind: str, flips: list[int]):
    content = bytearray(encoded(photo(), kind)[:cut])
    for place in flips:
        if place < len(content):
            content[place] ^= 0xFF
    try:
        result = open_image(open_undecoded(io.BytesIO(content), "set:3"), "set:3").mode
    except InputError as error:
        result = str(error)
    assert result == "RGB" or (result.startswith("set:3: the image ") and "\n" not in result)


@pytest.mark.parametrize("pillow", [None, 10**9, 200, 100], ids=["none", "larger", "warns", "raises"])
def test_more_pixels_than_the_limit_are_not_decoded_whatever_pillow_s_own_limit(
    pillow: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "bomb.png"
    photo((24, 16)).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 383)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
    monkeypatch.setattr(images, "to_rgb", lambda image: pytest.fail("decoded"))
    assert f"has more than {min(383, pillow or 383)} pixels" in refusal(Sample(path, "?"))


def test_a_picture_of_exactly_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "photo.png"
    photo((24, 16)).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 384)
    assert open_image(path).size == (24, 16)


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "photo.png"
    photo().save(path)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 99)
    assert "is a file of 0 MiB, and at most 0 are read" in refusal(Sample(path, "?"))


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "TGA", "PCX", "SGI", "DDS", "EPS", "PDF"])
def test_other_formats_are_refused(kind: str, tmp_path: Path):
    path = tmp_path / "photo"
    path.write_bytes(encoded(Image.new("RGB", (16, 16), RED), kind))
    assert "it is none of JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM" in refusal(Sample(path, "?"))


@pytest.mark.parametrize("kind", ["EPS", "TGA", "PCX"])
def test_other_formats_are_refused_in_memory_while_they_are_not_decoded(kind: str):
    opened = Image.open(io.BytesIO(encoded(Image.new("RGB", (16, 16), RED), kind)))
    assert "it is none of JPEG, PNG" in refusal(Sample(opened, "?"))


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_every_format_of_the_list_is_read(kind: str, tmp_path: Path):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    path = tmp_path / "photo"
    path.write_bytes(encoded(Image.new("RGB", (16, 16), RED), kind))
    found = np.asarray(open_image(path), dtype=int)
    assert np.abs(found - RED).max() <= 3
