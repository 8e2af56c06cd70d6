"""A contact sheet: the first samples of a data set with their images, questions and answers, as one
picture. A video shows its first frame.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from bivlm.data.videos import shown_image
from bivlm.errors import InputError
from bivlm.types import Sample

CELL, PICTURES, MARGIN = 360, 240, 12  # pixels: a cell's width, the height of its images, the space around
LINE, LETTERS, LINES = 18, 46, 8  # of the text: pixels of a line, letters in one, lines in a cell
COLUMNS = 4
INK, FAINT, PAGE = "#1a1a1a", "#777777", "white"


def contact_sheet(samples: Sequence[Sample], path: Path) -> None:
    """Write a PNG with a cell for each sample. Raises InputError for an image that cannot be read, and for a
    place that cannot be written.
    """
    across = max(1, min(COLUMNS, len(samples)))
    down = -(-len(samples) // across)
    height = PICTURES + LINES * LINE + 2 * MARGIN
    sheet = Image.new("RGB", (across * (CELL + MARGIN) + MARGIN, down * height + MARGIN), PAGE)
    for number, sample in enumerate(samples):
        left = MARGIN + number % across * (CELL + MARGIN)
        _draw(sheet, sample, left, MARGIN + number // across * height)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); give another file"
        ) from error


def _draw(sheet: Image.Image, sample: Sample, left: int, top: int) -> None:
    """One cell: the images next to each other, and the text under them."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    images = sample.visuals
    if not images:
        draw.rectangle((left, top, left + CELL, top + PICTURES), outline=FAINT)
        draw.text((left + CELL // 2, top + PICTURES // 2), "no image", FAINT, font, anchor="mm")
    width = CELL // max(1, len(images))
    for place, image in enumerate(images):
        small = ImageOps.contain(shown_image(image, sample.origin), (width - 4, PICTURES))
        sheet.paste(small, (left + place * width + (width - small.width) // 2, top + PICTURES - small.height))
    for row, (line, ink) in enumerate(_lines(sample)):
        draw.text((left, top + PICTURES + MARGIN // 2 + row * LINE), line, ink, font)


def _lines(sample: Sample) -> list[tuple[str, str]]:
    """The text of a cell with its colours: where the sample stands, the question, the answers."""
    earlier = [f"({len(sample.turns)} earlier turns)"] if sample.turns else []
    group = f"  [{sample.group}]" if sample.group else ""
    asked = [line for part in sample.question.splitlines() for line in textwrap.wrap(part, LETTERS)]
    answers = (
        textwrap.wrap(f"Answer: {' | '.join(dict.fromkeys(sample.answers))}", LETTERS)
        if sample.answers
        else []
    )
    room = LINES - 1 - len(earlier) - min(2, len(answers))
    shown = asked if len(asked) <= room else [*asked[: room - 1], "…"]
    head = textwrap.shorten(f"{sample.origin}{group}", LETTERS + 6, placeholder="…")
    return [
        (head, FAINT),
        *((line, FAINT) for line in earlier),
        *((line, INK) for line in shown),
        *((line, "#0b6e4f") for line in answers[:2]),
    ]
