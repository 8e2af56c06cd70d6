"""One picture in every mode, depth and kind of transparency, in memory and in files: it stays one picture."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bivlm.data.colours import to_rgb
from bivlm.data.images import open_undecoded

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)
LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = Image.fromarray(LEVELS)
HALF = np.indices((16, 16)).sum(0) % 2 == 0  # a chessboard of transparent pixels


def colours() -> Image.Image:
    """Every pixel differs; all hues, dark and light."""
    red, green = np.meshgrid(np.arange(0, 256, 17), np.arange(0, 256, 17))
    return Image.fromarray(np.stack([red, green, (red * 7 + green * 3) % 256], 2).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return open_undecoded(buffer, "picture")


def distance(image: Image.Image, expected: Image.Image | np.ndarray) -> int:
    found = to_rgb(image)
    assert found.mode == "RGB"
    assert found is not image
    return int(np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max())


def on_white(image: Image.Image) -> np.ndarray:
    """What a picture looks like with the pixels of HALF transparent."""
    return np.where(HALF[..., None], 255, np.asarray(image.convert("RGB")))


def sixteen(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.uint16) * 257


# ---- modes in memory

COLOUR_MODES = {  # the mode, and how far its rounding may move a level
    "RGB": 0,
    "RGBA": 0,
    "RGBX": 0,
    "CMYK": 0,
    "YCbCr": 3,
    "HSV": 9,
    "LAB": 90,
}
GREY_MODES = {**dict.fromkeys(("L", "LA", "P", "PA", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"), 0), "LAB": 2}
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def test_the_tests_below_cover_every_mode_that_pillow_has():
    assert set(Image.MODES) <= {*COLOUR_MODES, *GREY_MODES, *WITH_ALPHA, *DEEP, "1", "F"}


@pytest.mark.parametrize(("mode", "rounding"), COLOUR_MODES.items())
def test_colours_are_the_same_in_every_mode(mode: str, rounding: int):
    picture = colours()
    there = picture.convert(mode)
    assert distance(there, picture) <= rounding
    assert distance(there, there.convert("RGB")) == 0


@pytest.mark.parametrize(("mode", "rounding"), GREY_MODES.items())
def test_grey_levels_are_the_same_in_every_mode(mode: str, rounding: int):
    assert distance(GREY.convert(mode), GREY.convert("RGB")) <= rounding


def test_one_bit():
    assert distance(Image.fromarray(HALF), np.where(HALF[..., None], 255, 0)) == 0


def deep(mode: str, levels: np.ndarray) -> Image.Image:
    """Levels of 16 bits in one of Pillow's modes for them."""
    if mode == "I":
        return Image.fromarray(levels.astype(np.int32))
    order = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, levels.shape[::-1], levels.astype(order).tobytes())


@pytest.mark.parametrize("mode", DEEP)
def test_sixteen_bits_are_scaled_by_their_range(mode: str):
    image = deep(mode, sixteen(LEVELS))
    assert image.mode == mode
    assert distance(image, GREY.convert("RGB")) == 0


@pytest.mark.parametrize("mode", WITH_ALPHA)
def test_alpha_is_laid_on_white_in_every_mode(mode: str):
    picture = GREY if mode in ("LA", "La", "PA") else colours()
    image = picture.convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode)
    image.putalpha(Image.fromarray(np.where(HALF, 0, 255).astype(np.uint8)))
    assert distance(image.convert(mode), on_white(picture)) == 0


@pytest.mark.parametrize(("mode", "rounding"), [("RGBA", 0), ("RGBa", 1), ("LA", 0), ("La", 1), ("PA", 0)])
def test_half_of_alpha_is_half_white(mode: str, rounding: int):
    image = GREY.convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode)
    image.putalpha(128)
    expected = GREY.point(lambda level: round((level * 128 + 255 * 127) / 255)).convert("RGB")
    assert distance(image.convert(mode), expected) <= rounding


@pytest.mark.parametrize("transparency", [[7], bytes([0 if index == 7 else 255 for index in range(256)])])
def test_a_palette_with_transparent_entries(transparency):
    levels = np.where(HALF, 7, 100).astype(np.uint8)
    image = Image.fromarray(levels).convert("P")
    image.info["transparency"] = transparency if isinstance(transparency, bytes) else transparency[0]
    assert distance(image, np.where(HALF[..., None], 255, 100)) == 0


def test_a_palette_with_an_alpha_of_its_own():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 255, *BLACK, 0], "RGBA")
    image.putpixel((1, 0), 1)
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("F", (1, 1), 0.5), "floating-point pixels have no agreed range"),
        (Image.new("I", (1, 1), -5), "its levels run from -5 to 0"),
        (Image.new("I", (1, 1), 70_000), "its levels run from 0 to 70000|its levels run from 70000"),
        (Image.new("I", (1, 1), 4095), "its highest level is 4095, and nothing says whether white is"),
        (Image.new("I;16", (1, 1), 255), "its highest level is 255"),
        (GREY.convert("I"), "its highest level is 255"),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_numbers_without_a_range_are_refused(image: Image.Image, words: str):
    with pytest.raises(ValueError, match=words):
        to_rgb(image)


def test_black_needs_no_range():
    assert to_rgb(Image.new("I;16", (1, 1), 0)).getpixel((0, 0)) == BLACK


# ---- files


def png(
    bits: int, colour: int, rows: list[bytes], size: tuple[int, int], *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG by its parts."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)), *chunks, (b"IDAT", body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts) + chunk(b"IEND", b"")


def opened(content: bytes) -> Image.Image:
    return open_undecoded(io.BytesIO(content), "picture")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [None, "first", "last"])
def test_grey_png_of_every_depth_with_and_without_a_transparent_level(bits: int, transparent: str | None):
    top = (1 << bits) - 1
    count = min(top, 255) + 1
    levels = np.round(np.linspace(0, top, count)).astype(int)
    row = int("".join(f"{level:0{bits}b}" for level in levels).ljust(8, "0"), 2)
    content = row.to_bytes(max(1, count * bits // 8), "big")
    expected = np.rint(levels * 255 / top).astype(int)
    chunks = []
    if transparent:
        at = 0 if transparent == "first" else -1
        chunks = [(b"tRNS", struct.pack(">H", levels[at]))]
        expected[at] = 255
    image = opened(png(bits, 0, [content], (count, 1), *chunks))
    assert distance(image, np.repeat(expected[None, :, None], 3, 2)) == 0


@pytest.mark.parametrize("kind", [2, 4, 6], ids=["RGB", "grey and alpha", "RGBA"])
def test_colour_png_of_sixteen_bits(kind: int):
    picture, alpha = (
        (colours(), np.where(HALF, 0, 65535)[..., None])
        if kind != 4
        else (
            GREY.convert("RGB"),
            np.where(HALF, 0, 65535)[..., None],
        )
    )
    values = sixteen(np.asarray(picture))[..., : 1 if kind == 4 else 3]
    values = values if kind == 2 else np.concatenate([values, alpha], 2)
    content = png(16, kind, [row.astype(">u2").tobytes() for row in values], (16, 16))
    assert distance(opened(content), picture if kind == 2 else on_white(picture)) == 0


def test_a_transparent_colour_of_sixteen_bits_is_refused_for_two_colours_could_be_one():
    content = png(16, 2, [bytes(12)], (2, 1), (b"tRNS", bytes(6)))
    with pytest.raises(ValueError, match="colours of 16 bits with one transparent colour"):
        to_rgb(opened(content))


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_is_laid_on_white(mode: str):
    image = Image.fromarray(np.array([[0, 200]], dtype=np.uint8)).convert(mode)
    again = saved(image, "PNG", transparency=image.getpixel((0, 0)))
    assert [to_rgb(again).getpixel((x, 0)) for x in (0, 1)] == [WHITE, (200, 200, 200)]


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_png_of_sixteen_bits_is_scaled_however_dark(values: list[int]):
    image = saved(Image.fromarray(np.array([values], dtype=np.uint16)), "PNG")
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [
        int(np.rint(value * 255 / 65535)) for value in values
    ]


@pytest.mark.parametrize(
    ("kind", "options", "rounding"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 4),
    ],
)
def test_grey_and_colour_files(kind: str, options: dict, rounding: int):
    for picture in (GREY, colours()):
        assert distance(saved(picture, kind, **options), picture.convert("RGB")) <= rounding


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_files(kind: str):
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    smooth = colours().resize((64, 64), Image.Resampling.BILINEAR)
    assert distance(saved(smooth.convert("CMYK"), kind, **options), smooth) <= 6


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("GIF", {})]
)
def test_files_with_alpha(kind: str, options: dict):
    picture = GREY.point(lambda level: level // 64 * 64)
    image = picture.convert("RGBA")
    image.putalpha(Image.fromarray(np.where(HALF, 0, 255).astype(np.uint8)))
    assert distance(saved(image, kind, **options), on_white(picture)) == 0


@pytest.mark.parametrize(  # Pillow reads the other combinations in neither byte order
    ("first", "bits", "white_is_zero"),
    [
        (b"II", 8, False),
        (b"II", 8, True),
        (b"II", 12, False),
        (b"II", 16, False),
        (b"II", 16, True),
        (b"MM", 8, False),
        (b"MM", 8, True),
        (b"MM", 16, False),
    ],
)
def test_tiff_of_every_depth_and_either_white(first: bytes, bits: int, white_is_zero: bool):
    top = (1 << bits) - 1
    levels = np.rint(np.array([0, 3, 100, 200, 254, 255]) * top / 255).astype(int)
    image = opened(tiff(first, bits, levels, int(not white_is_zero), 1))
    expected = np.rint(levels * 255 / top).astype(int)
    expected = 255 - expected if white_is_zero else expected
    assert distance(image, np.repeat(expected[None, :, None], 3, 2)) == 0


@pytest.mark.parametrize(
    ("bits", "sample_format", "words"),
    [
        (8, 2, "signed pixels"),
        (16, 2, "signed pixels"),
        (32, 2, "signed pixels"),
        (32, 1, "32-bit pixels have no agreed range"),
        (32, 3, "floating-point pixels"),
    ],
)
def test_tiff_of_numbers_without_a_range_is_refused(bits: int, sample_format: int, words: str):
    with pytest.raises(ValueError, match=words):
        to_rgb(opened(tiff(b"II", bits, np.array([0, 1, 2]), 1, sample_format)))


def tiff(first: bytes, bits: int, levels: np.ndarray, photometric: int, sample_format: int) -> bytes:
    """A grey TIFF of one row, by its parts."""
    order = "<" if first == b"II" else ">"
    if bits == 12:
        text = "".join(f"{level:012b}" for level in levels)
        data = int(text, 2).to_bytes(len(text) // 8, "big")
    else:
        data = levels.astype(f"{order}u{bits // 8}").tobytes()
    entries = {
        256: len(levels),
        257: 1,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: 1,
        279: len(data),
        339: sample_format,
    }
    head = first + struct.pack(f"{order}HI", 42, 8 + len(data))
    table = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries.items())
    return head + data + struct.pack(f"{order}H", len(entries)) + table + bytes(4)
