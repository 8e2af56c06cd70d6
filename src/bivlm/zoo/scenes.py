"""Rendered scenes and the captions that describe them: a search that needs colour, form and ground.

    64 x 64 pixels, one shape ─► "a teal triangle on yellow"

A shape has one of eight colours and one of three forms, and stands on a pale ground of one of eight colours:
192 captions. Shades, sizes, places and grain, which no caption names, are drawn anew for every scene, so some
are harder to read than others. Scenes come in sets of four: one, and three that differ from it in the colour,
the form or the ground alone. The same seed gives the same scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
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
GROUNDS = ("white", *(name for name in COLOURS if name != "black"))
CAPTIONS = len(COLOURS) * len(FORMS) * len(GROUNDS)
SIDE, LEAST_SIZE, MOST_SIZE = 64, 12, 32  # pixels
WHITE, PALE = 250, 0.6  # the white of a ground, and its share of a pale one
SHADE, MOST_GRAIN = 15.0, 45.0  # standard deviations of a colour and of the pixels, of 255


@dataclass(frozen=True)
class Shape:
    """What a caption says: one of COLOURS, FORMS and GROUNDS each."""

    colour: str
    form: str
    ground: str

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.form} on {self.ground}"


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


def rounds(count: int, times: int, seed: int) -> list[Scene]:
    """`times` pictures of each of `count` captions, round by round, the captions always in the same order."""
    first = scenes(count, seed)
    found = list(first)
    for number in range(1, times):
        others = {one.caption: one for one in scenes(CAPTIONS, seed + number)}
        found += [others[one.caption] for one in first]
    return found


def alike(draw: np.random.Generator) -> list[Shape]:
    """A drawn shape and three that differ from it in one thing each."""
    choices = {"colour": tuple(COLOURS), "form": FORMS, "ground": GROUNDS}
    first = Shape(**{name: _one_of(words, draw) for name, words in choices.items()})
    others = {
        name: _one_of([word for word in words if word != getattr(first, name)], draw)
        for name, words in choices.items()
    }
    return [first, *(replace(first, **{name: word}) for name, word in others.items())]


def _one_of(words: Sequence[str], draw: np.random.Generator) -> str:
    return words[int(draw.integers(len(words)))]


def rendered(shape: Shape, draw: np.random.Generator) -> Image.Image:
    """A picture of a shape of any size, anywhere, under grain."""
    image = Image.new("RGB", (SIDE, SIDE), _shade(ground_of(shape.ground), draw))
    size = int(draw.integers(LEAST_SIZE, MOST_SIZE + 1))
    x, y = (int(one) for one in draw.integers(0, SIDE - size, 2))
    colour = _shade(COLOURS[shape.colour], draw)
    _draw_shape(ImageDraw.Draw(image), shape.form, (x, y, x + size, y + size), colour)
    grain = draw.normal(0, draw.uniform(0, MOST_GRAIN), (SIDE, SIDE, 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def ground_of(name: str) -> Colour:
    """The colour of a ground: white, or a pale one."""
    if name == "white":
        return (WHITE, WHITE, WHITE)
    red, green, blue = (int(PALE * WHITE + (1 - PALE) * one) for one in COLOURS[name])
    return red, green, blue


def _shade(colour: Colour, draw: np.random.Generator) -> Colour:
    red, green, blue = (int(one) for one in (np.asarray(colour) + draw.normal(0, SHADE, 3)).clip(0, 255))
    return red, green, blue


def _draw_shape(canvas: ImageDraw.ImageDraw, form: str, box: tuple[int, int, int, int], fill: Colour) -> None:
    x0, y0, x1, y1 = box
    if form == "circle":
        canvas.ellipse(box, fill=fill)
    elif form == "rectangle":
        canvas.rectangle(box, fill=fill)
    else:
        canvas.polygon([(x0, y1), (x1, y1), ((x0 + x1) / 2, y0)], fill=fill)
