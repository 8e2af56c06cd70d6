"""From the image of a sample to the pixels for a processor: a new, upright image in 8-bit RGB; or one line
that says what is wrong.

Only the formats in FORMATS are read, and an image's size is compared with MAX_PIXELS before its pixels are
decoded. For an animation the first frame is used. colours.py says what each kind of pixel becomes.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, cast

from PIL import Image, ImageFile, UnidentifiedImageError

from bivlm.data.colours import to_rgb
from bivlm.data.files import why_no_file
from bivlm.errors import InputError, cut
from bivlm.types import Picture

# plain pixels; none of them starts another program (EPS starts Ghostscript) or names other files. Phones'
# MPO is read as JPEG; AVIF only where Pillow has it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 89_478_485  # Pillow's default; in RGB they take 0.33 GiB
MAX_FILE_BYTES = 512 << 20  # some decoders read the whole file

# what Pillow's decoders raise on damaged files; UnidentifiedImageError is an OSError
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def open_image(picture: Picture, origin: str = "") -> Image.Image:
    """An image as upright 8-bit RGB. What is given is not changed; an undecoded image stays undecoded.

    Raises InputError, naming `origin` and the file, when the file is missing, no regular file, unreadable, in
    none of FORMATS, cut short, or has more than MAX_PIXELS pixels, or when its values have no declared range
    (floating point, signed, 32 bits).
    """
    path = f" {cut(str(picture), 200)}" if isinstance(picture, Path) else ""
    where = f"{origin}: the image{path}" if origin else f"the image{path}"
    if isinstance(picture, Path):
        check_file(picture, where)
    with errors_named(where), undecoded(picture) as image:
        return to_rgb(image)


def open_undecoded(file: IO[bytes], origin: str) -> Image.Image:
    """The image in `file`, with its header read but not its pixels; `file` must stay open. Raises InputError,
    naming `origin`, if it is no image in FORMATS or has too many pixels.
    """
    with errors_named(f"{origin}: the image"):
        return _opened(file)


def check_file(path: Path, where: str) -> None:
    """InputError, beginning with `where`, for what is no regular file, and for one that is too large."""
    wrong = why_no_file(path)
    if wrong:
        raise InputError(f"{where} {wrong}; correct the path or leave the sample out")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(
            f"{where} is a file of {path.stat().st_size >> 20} MiB, and at most {MAX_FILE_BYTES >> 20} are"
            " read; make it smaller"
        )


def _opened(file: IO[bytes]) -> Image.Image:
    image = Image.open(file, formats=_formats())
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow has: naming another is an error."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def undecoded(image: Path | Image.Image) -> Iterator[Image.Image]:
    """The image, its pixels still to be decoded. An undecoded image in memory is opened a second time, so the
    sample does not keep the pixels.
    """
    if isinstance(image, Path):
        with image.open("rb") as file:
            yield _opened(file)
    elif isinstance(image, ImageFile.ImageFile) and image.fp is not None and image.tile:
        yield _opened(cast(IO[bytes], image.fp))  # tiles are what is still to be decoded
    else:
        yield image


@contextmanager
def errors_named(where: str) -> Iterator[None]:
    """Turn what Pillow raises into InputError. Its warnings (a damaged EXIF block, many pixels) do no harm
    here: the pixels are counted.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
        raise InputError(
            f"{where} has more than {most} pixels, the most that are decoded; make it smaller"
        ) from error
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"{where} cannot be read as an image (it is none of {', '.join(_formats())}); replace it or leave"
            " the sample out"
        ) from error
    except DAMAGED as error:
        raise InputError(
            f"{where} cannot be read as an image ({_first_line(error)}); replace it or leave the sample out"
        ) from error


def _first_line(error: BaseException) -> str:
    return cut(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
