"""Rendered scenes and the captions that describe them: a search that needs size, colour, form and place.

    64 x 64 pixels, one shape ─► "a small teal triangle, top left"

A shape is small or large, has one of three forms and one of eight colours, and its middle lies in one of nine
fields: 432 captions. Place and size are drawn evenly, so that some lie near the edge between two captions;
shades, the ground and how grainy the picture is are drawn anew for every scene too. Scenes come in sets of
five: one, and four that differ from it in the size, the colour, the form or the place alone. The same seed
gives the same scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

SIZES = {"small": (8, 16), "large": (16, 24)}  # pixels, the second not reached
COLOURS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}  # those of easy-VQA
FORMS = ("circle", "rectangle", "triangle")
PLACES = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)
CAPTIONS = len(SIZES) * len(COLOURS) * len(FORMS) * len(PLACES)
SIDE, EDGE = 64, 13  # pixels, and how far from the picture's edge the middle of a shape lies at least
MOST_GRAIN, SHADE = 60.0, 25.0  # standard deviations, of 255


@dataclass(frozen=True)
class Shape:
    """What a caption says: one of SIZES, COLOURS, FORMS and PLACES each."""

    size: str
    colour: str
    form: str
    place: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.form}, {self.place}"


@dataclass(frozen=True)
class Scene:
    """A picture and the caption that describes it."""

    image: Image.Image
    caption: str


def scenes(count: int, seed: int) -> list[Scene]:
    """`count` scenes, CAPTIONS at most, with different captions; a larger count begins with the same ones."""
    if count > CAPTIONS:
        raise ValueError(f"there are {CAPTIONS} captions, and so no {count} scenes with different ones")
    draw, found = np.random.default_rng(seed), dict[str, Scene]()
    while len(found) < count:
        for shape in alike(draw):
            if shape.caption not in found:
                found[shape.caption] = Scene(rendered(shape, draw), shape.caption)
    return list(found.values())[:count]


def alike(draw: np.random.Generator) -> list[Shape]:
    """A drawn shape and four that differ from it in one thing each."""
    choices = {"size": tuple(SIZES), "colour": tuple(COLOURS), "form": FORMS, "place": PLACES}
    first = Shape(**{name: _one_of(words, draw) for name, words in choices.items()})
    others = {
        name: _one_of([word for word in words if word != getattr(first, name)], draw)
        for name, words in choices.items()
    }
    return [first, *(replace(first, **{name: word}) for name, word in others.items())]


def _one_of(words: Sequence[str], draw: np.random.Generator) -> str:
    return words[int(draw.integers(len(words)))]


def rendered(shape: Shape, draw: np.random.Generator) -> Image.Image:
    """A picture of a shape, under grain: its size and its middle drawn evenly from what the caption says."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(one) for one in draw.integers(230, 256, 3)))
    half = draw.uniform(*SIZES[shape.size]) / 2
    row, column = divmod(PLACES.index(shape.place), 3)
    field = (SIDE - 2 * EDGE) / 3
    x, y = (EDGE + field * (number + draw.uniform()) for number in (column, row))
    shade = (np.asarray(COLOURS[shape.colour]) + draw.normal(0, SHADE, 3)).clip(0, 255)
    box = (x - half, y - half, x + half, y + half)
    _draw_shape(ImageDraw.Draw(image), shape.form, box, tuple(int(one) for one in shade))
    grain = draw.normal(0, draw.uniform(0, MOST_GRAIN), (SIDE, SIDE, 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def _draw_shape(
    canvas: ImageDraw.ImageDraw,
    form: str,
    box: tuple[float, float, float, float],
    fill: tuple[int, ...],
) -> None:
    x0, y0, x1, y1 = box
    if form == "circle":
        canvas.ellipse(box, fill=fill)
    elif form == "rectangle":
        canvas.rectangle(box, fill=fill)
    else:
        canvas.polygon([(x0, y1), (x1, y1), ((x0 + x1) / 2, y0)], fill=fill)
