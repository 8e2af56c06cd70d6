"""The picture to share: the image, the question, and every model's answer with its bits, size and speed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bivlm.data.videos import shown_image
from bivlm.studies.cells import size
from bivlm.studies.picture import save_picture
from bivlm.studies.show.run import ShownAnswer
from bivlm.types import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, DPI = 12.0, 150
LEFT = 4.6  # inches of the image's column
CARD = 0.95  # inches of a model's card with one line of answer
LINE = 0.24  # inches of a line more
WRAP = 62  # characters of a line of an answer
INK, SOFT, ACCENT = "#1b1f24", "#5a6570", "#0072b2"


def answers_picture(sample: Sample, answers: Sequence[ShownAnswer], path: Path) -> None:
    """Write the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [textwrap.wrap(answer.answer, WRAP) or ["(nothing)"] for answer in answers]
    heights = [CARD + LINE * (len(rows) - 1) for rows in lines]
    question = textwrap.wrap(sample.question, WRAP)
    head = 0.5 + 0.32 * len(question)
    height = max(sum(heights) + head, 1.2 + LEFT * 0.7)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _images(figure, sample, height)
    axes = figure.add_axes((LEFT / WIDTH, 0, 1 - LEFT / WIDTH, 1))
    axes.set(xlim=(0, WIDTH - LEFT), ylim=(0, height))
    axes.set_axis_off()
    axes.text(
        0.2,
        height - 0.25,
        "\n".join(question),
        fontsize=14,
        weight="bold",
        va="top",
        color=INK,
        parse_math=False,
    )
    top = height - head
    for answer, rows, own in zip(answers, lines, heights, strict=True):
        _card(axes, answer, rows, top, own)
        top -= own
    save_picture(figure, path)


def _images(figure: object, sample: Sample, height: float) -> None:
    """The images of the question below each other in the left column."""
    images = [shown_image(one, sample.origin) for one in sample.visuals]
    for number, image in enumerate(images):
        room = (height - 0.4) / len(images)
        axes = figure.add_axes(  # pyright: ignore[reportAttributeAccessIssue]
            (
                0.2 / WIDTH,
                (0.2 + room * (len(images) - 1 - number)) / height,
                (LEFT - 0.4) / WIDTH,
                (room - 0.1) / height,
            )
        )
        axes.imshow(_large(image))
        axes.set_axis_off()


def _large(image: Image.Image) -> Image.Image:
    """A small image in larger pixels, so that its own stay sharp."""
    factor = max(1, 600 // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _card(axes: Axes, answer: ShownAnswer, rows: Sequence[str], top: float, height: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    width = WIDTH - LEFT - 0.4
    axes.add_patch(
        FancyBboxPatch(
            (0.2, top - height + 0.1),
            width,
            height - 0.14,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="#f3f5f7",
            edgecolor="#d4d9df",
            linewidth=0.8,
        )
    )
    axes.text(0.35, top - 0.16, f"{answer.bits:.2f} bits", fontsize=12, weight="bold", va="top", color=ACCENT)
    facts = f"{answer.name}  ·  {size(answer.nbytes)}  ·  {answer.tokens_per_second:.1f} tokens/s"
    axes.text(width + 0.1, top - 0.18, facts, fontsize=9, va="top", ha="right", color=SOFT, parse_math=False)
    axes.text(
        0.35, top - 0.5, "\n".join(rows), fontsize=12, va="top", color=INK, linespacing=1.35, parse_math=False
    )
