"""From the image of a sample to the pixels for a processor: a new, upright image in 8-bit RGB; or one line
that says what is wrong.

Transparent pixels are put on white, as on a page (the colours of fully transparent pixels are arbitrary,
often black). Grey images of 16 bits are scaled to 8 bits; Pillow's own conversion would clip everything above
255. For an animation the first frame is used.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps

from bivlm.errors import InputError
from bivlm.types import Sample

# what Pillow's decoders raise on damaged files; UnidentifiedImageError is an OSError
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def open_image(sample: Sample) -> Image.Image:
    """The sample's image as upright 8-bit RGB. The sample is not changed; an undecoded image in it stays
    undecoded.

    Raises InputError, naming the sample and its file, when the file is missing, unreadable, no image, cut
    short, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or when its values have no agreed range
    (floating point).
    """
    origin = f"{sample.origin}: " if sample.origin else ""
    if sample.image is None:
        raise InputError(f"{origin}there is no image, and the model reads one; give an image")
    path = f" {sample.image}" if isinstance(sample.image, Path) else ""
    with _errors_named(f"{origin}the image{path}"), _undecoded(sample.image) as image:
        return to_rgb(image)


def open_images(samples: Sequence[Sample], wanted: bool = True) -> list[Image.Image]:
    """The images of some samples; none if the model reads no images. Raises InputError as `open_image`."""
    return [open_image(sample) for sample in samples] if wanted else []


def open_undecoded(file: IO[bytes], origin: str) -> Image.Image:
    """The image in `file`, with its header read but not its pixels; `file` must stay open. Raises InputError,
    naming `origin`, if it is no image.
    """
    with _errors_named(f"{origin}: the image"):
        return Image.open(file)


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright copy in 8-bit RGB. Raises ValueError for a mode that has no agreed colours."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        grey = np.asarray(upright).astype(np.float32).clip(0, 65535) / 257  # 257 = 65535 / 255
        upright = Image.fromarray(grey.round().astype(np.uint8))
    elif upright.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if _is_transparent(upright):
        over = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return upright.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or image.getbands()[-1] in ("A", "a")


@contextmanager
def _undecoded(image: Path | Image.Image) -> Iterator[Image.Image]:
    """The decoded image. An image that is not decoded yet is opened a second time, so the sample does not
    keep the pixels.
    """
    if isinstance(image, Path):
        with Image.open(image) as opened:
            yield opened
    elif (
        isinstance(image, ImageFile.ImageFile) and image.fp is not None and image.tile
    ):  # tiles are what is still to be decoded
        yield Image.open(cast(IO[bytes], image.fp))
    else:
        yield image


@contextmanager
def _errors_named(where: str) -> Iterator[None]:
    """Turn what Pillow raises into InputError, its warning above MAX_IMAGE_PIXELS too. Its other warnings (a
    damaged EXIF block) do no harm here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{where} has more than {Image.MAX_IMAGE_PIXELS} pixels, the most that are decoded; make it"
            " smaller"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{where} does not exist; correct the path or leave the sample out") from error
    except DAMAGED as error:
        raise InputError(
            f"{where} cannot be read as an image ({_first_line(error)}); replace it or leave the sample out"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
