"""The picture of the answers on the model card of a packed folder: a small PNG in the folder, and one line of
README.md between two markers, so that a later picture takes its place.

Neither file has a checksum: `bivlm verify` passes with and without them.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bivlm.checkpoint.companions import CARD
from bivlm.checkpoint.durable import publish, sync_folder, write_errors_explained, write_text, writing_name
from bivlm.checkpoint.place import PICTURE_NAME, check_card
from bivlm.errors import InputError, cut
from bivlm.studies.show.picture import answers_picture
from bivlm.studies.show.run import ShownAnswer
from bivlm.types import Sample

PICTURE = "the picture"
BEGIN, END = "<!-- picture: bivlm show -->", "<!-- end of picture -->"
MOST_BYTES = 300_000
WIDTHS = (1400, 1000, 700, 400)  # pixels; the largest that fits into MOST_BYTES
COLOURS = 256
_BETWEEN = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_FRONT = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r"^# .*\n", re.MULTILINE)


def put_on_card(sample: Sample, answers: Sequence[ShownAnswer], folder: Path) -> Path:
    """Draw the picture into the folder, show it on the card below its title, and return its path.

    Raises InputError as `check_card` does, and if the folder cannot be written.
    """
    check_card(folder, PICTURE)
    picture, card = folder / PICTURE_NAME, folder / CARD
    with tempfile.TemporaryDirectory(prefix="bivlm-show-") as temporary:
        large = Path(temporary) / PICTURE_NAME
        answers_picture(sample, answers, large)
        content = small_png(large)
    try:
        text = card.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"{card} is no text in UTF-8; correct it, or quantize the model again") from error
    with write_errors_explained(folder):
        writing_name(picture).write_bytes(content)
        publish(writing_name(picture), picture)
        write_text(card, with_picture(text, sample.question))
        sync_folder(folder)
    return picture


def small_png(path: Path) -> bytes:
    """The picture of a file as a PNG of at most MOST_BYTES, in a palette and as wide as that allows."""
    with Image.open(path) as opened:
        large = opened.convert("RGB")
    content = b""
    for width in WIDTHS:
        height = round(large.height * width / large.width)
        small = large.resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.quantize(COLOURS).save(buffer, "PNG", optimize=True)
        content = buffer.getvalue()
        if len(content) <= MOST_BYTES:
            break
    return content


def with_picture(card: str, question: str) -> str:
    """The card's text with the picture: in place of an earlier one, else below the title, else at the end."""
    words = re.sub(r"([\\\[\]<>&`*_!])", r"\\\1", cut(" ".join(question.split()), 200))
    block = f"{BEGIN}\n![What models of several sizes answer to: {words}]({PICTURE_NAME})\n{END}"
    if _BETWEEN.search(card):
        return _BETWEEN.sub(lambda _: block, card, count=1)
    front = _FRONT.match(card)
    title = _TITLE.search(card, 0 if front is None else front.end())
    if title is None:
        return f"{card.rstrip()}\n\n{block}\n"
    return f"{card[: title.end()]}\n{block}\n{card[title.end() :]}"
