"""Every kind of pixel as upright 8-bit RGB: the same picture gives the same pixels in every mode and depth.

Transparent pixels are put on white, as on a page (the colours of fully transparent pixels are arbitrary,
often black). Grey levels of more than 8 bits are scaled by the range that the file declares; Pillow's own
conversion would cut off everything above 255. Numbers whose range nobody declares (floating point, signed, 32
bits, or 12 bits in 16) are refused.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
UNSIGNED, SIGNED = 1, 2  # values of SAMPLE_FORMAT
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC
# what a transparent level of a PNG is multiplied by: Pillow scales levels of 2 and 4 bits, but not this one
TRANSPARENT_LEVEL = {"L;2": 85, "L;4": 17}
DECLARED_16_BITS = ("PNG", "PPM")  # their readers give 0…65535 for grey levels of more than 8 bits
SAVE_AS_8 = "save it with 8 bits"


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright copy in 8-bit RGB. Raises ValueError, with what to do, for numbers that have no declared
    range.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise ValueError(f"floating-point pixels have no agreed range; {SAVE_AS_8} or as 16-bit PNG")
    if SIGNED in _numbers(tags.get(SAMPLE_FORMAT, UNSIGNED)):
        raise ValueError(f"signed pixels have no agreed range; {SAVE_AS_8} or as 16-bit PNG")
    level = _transparent_level(image)
    bits = _numbers(tags.get(BITS_PER_SAMPLE, 0))[0]
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
        return _grey(np.asarray(upright), image.format, bits, inverted, level).convert("RGB")
    if level is not None:
        upright.info["transparency"] = level
    if upright.mode == "La":
        upright = upright.convert("LA")
    if not _is_transparent(upright):
        return upright.convert("RGB")
    over = upright.convert("RGBA")
    page = Image.new("RGB", over.size, "white")
    page.paste(over.convert("RGB"), mask=over.getchannel("A"))
    return page


def _grey(
    levels: np.ndarray, file_format: str | None, bits: int, inverted: bool, transparent: int | None
) -> Image.Image:
    """Grey levels of more than 8 bits as 8 bits."""
    top = _top(levels, file_format, bits)
    scaled = np.rint(levels.astype(np.float32) * (255 / top)).astype(np.uint8)
    if inverted:
        scaled = 255 - scaled
    if transparent is not None:
        scaled[levels == transparent] = 255
    return Image.fromarray(scaled)


def _top(levels: np.ndarray, file_format: str | None, bits: int) -> int:
    """The level that means white: what the file declares, else 65535 if the levels need more than 12 bits."""
    low, high = int(levels.min(initial=0)), int(levels.max(initial=0))
    if file_format == "TIFF" and bits > 16:
        raise ValueError(f"{bits}-bit pixels have no agreed range; {SAVE_AS_8} or as 16-bit PNG")
    if low < 0 or high > 65535:
        raise ValueError(
            f"its levels run from {low} to {high}, and 16 bits hold 0 to 65535; {SAVE_AS_8} or as 16-bit PNG"
        )
    if file_format == "TIFF" and bits:
        return (1 << bits) - 1
    if file_format not in DECLARED_16_BITS and 0 < high < 4096:
        raise ValueError(
            f"its highest level is {high}, and nothing says whether white is 255, 4095 or 65535; convert it"
            " to 8 bits (mode L)"
        )
    return 65535


def _transparent_level(image: Image.Image) -> int | None:
    """The transparent grey level in the scale of the decoded pixels; None if there is none. Call it before
    the image is decoded.
    """
    level, raw = image.info.get("transparency"), _raw_mode(image)
    if level is None:
        return None
    if raw.startswith("RGB;16"):
        raise ValueError(
            "colours of 16 bits with one transparent colour cannot be told apart in 8 bits; save it with an"
            " alpha channel"
        )
    return level * TRANSPARENT_LEVEL.get(raw, 1) if isinstance(level, int) and image.mode != "P" else None


def _raw_mode(image: Image.Image) -> str:
    """How the pixels of an undecoded file are stored, in Pillow's words; "" if that is not known."""
    tiles = getattr(image, "tile", ())
    return str(tiles[0][3]) if tiles else ""


def _numbers(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) and value else (0,) if isinstance(value, tuple) else (value,)


def _is_transparent(image: Image.Image) -> bool:
    with_alpha = image.palette is not None and image.palette.mode.endswith("A")
    return "transparency" in image.info or image.getbands()[-1] in ("A", "a") or with_alpha
