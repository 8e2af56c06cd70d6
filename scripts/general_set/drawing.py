"""What all pictures are drawn with: fonts that come with matplotlib, canvases, wrapped and centred text; and
what a drawing hands over: pictures with the questions asked about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

SANS, BOLD, MONO, SERIF = "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif"
SERIF_BOLD, SERIF_ITALIC, SCRIPT = "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneralItalic"
INK = (28, 28, 34)

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Asked:
    """A question about pictures with its answer. `kind` says what sort of answer is wanted."""

    question: str
    answer: str
    kind: str = "short"
    language: str = "en"


@dataclass(frozen=True)
class Drawn:
    """One picture, or several that belong together, and the questions about them. A `photographic` one is
    stored with losses.
    """

    images: tuple[Image.Image, ...]
    asked: tuple[Asked, ...]
    photographic: bool = False


def drawn(image: Image.Image, *asked: Asked, photographic: bool = False) -> Drawn:
    return Drawn((image,), asked, photographic)


@cache
def font(size: int, face: str = SANS) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's own folder, laid out letter by letter: the same on every machine."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def canvas(width: int, height: int, colour: RGB = (255, 255, 255)) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), colour)
    return image, ImageDraw.Draw(image)


def shrunk(image: Image.Image, factor: int) -> Image.Image:
    """A picture that was drawn `factor` times as large, with smooth edges."""
    return image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX)


def wrapped(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The lines of a text that are at most `width` pixels wide; a new line in it stays one."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and face.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def paragraph(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    face: ImageFont.FreeTypeFont,
    width: int,
    fill: Any = INK,
    leading: float = 1.35,
) -> int:
    """Write wrapped text; returns the height at which the next line would begin."""
    x, y = place
    for line in wrapped(text, face, width):
        pen.text((x, y), line, font=face, fill=fill)
        y += int(face.size * leading)
    return y


def centred(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    face: ImageFont.FreeTypeFont,
    fill: Any = INK,
) -> None:
    pen.multiline_text(place, text, font=face, fill=fill, anchor="mm", align="center")


def box(pen: ImageDraw.ImageDraw, corners: Sequence[float], **how: Any) -> None:
    """A rounded rectangle, 6 pixels unless told otherwise."""
    pen.rounded_rectangle(tuple(corners), **{"radius": 6, **how})
