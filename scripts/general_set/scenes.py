"""Scenes of several flat shapes on plain, striped, chequered and shaded grounds: counting, colours,
relations, presence, choices, lists, captions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from drawing import Asked, Drawn, drawn, shrunk
from shapes import COLOURS, SHAPES, colour_name, put

SIZES = ((160, 120), (224, 224), (320, 200), (128, 192), (256, 256), (300, 120), (200, 300), (384, 256))
HOW_MANY = {
    "de": "Wie viele Figuren sind auf dem Bild?",
    "fr": "Combien de figures y a-t-il sur l’image ?",
    "es": "¿Cuántas figuras hay en la imagen?",
    "it": "Quante figure ci sono nell’immagine?",
    "pt": "Quantas figuras há na imagem?",
    "ru": "Сколько фигур на картинке?",
    "zh": "图中一共有几个图形？",
    "ja": "図形はいくつありますか。",
    "ar": "كم عدد الأشكال في الصورة؟",
    "hi": "चित्र में कितनी आकृतियाँ हैं?",
}
LARGEST = {
    "de": "Welche Farbe hat die größte Figur?",
    "fr": "Quelle est la couleur de la plus grande figure ?",
    "es": "¿Cuál es el color de la figura más grande?",
    "it": "Qual è il colore della figura più grande?",
    "pt": "Qual é a cor da maior figura?",
    "ru": "Какой цвет у самой большой фигуры?",
    "zh": "最大的图形是什么颜色？",
    "ja": "いちばん大きい図形は何色ですか。",
    "ar": "ما لون أكبر شكل؟",
    "hi": "सबसे बड़ी आकृति का रंग क्या है?",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Thing:
    """A shape that lies somewhere: its middle and size in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    size: float

    @property
    def words(self) -> str:
        return f"{self.colour} {self.shape}"


def pictures(random: np.random.Generator) -> list[Drawn]:
    found, others = [], list(HOW_MANY)
    for number in range(12):
        width, height = SIZES[number % len(SIZES)]
        things = scattered(random, width, height, 3 + number % 6)
        image = painted(things, ground(random, width, height, number % 4))
        asked = [*_counting(things), *_placing(things), *_telling(things, number)]
        language = others[number % len(others)]
        largest = max(things, key=lambda thing: thing.size)
        asked.append(Asked(HOW_MANY[language], str(len(things)), "count", language))
        asked.append(Asked(LARGEST[language], colour_name(largest.colour, language), "short", language))
        found.append(drawn(image, *asked))
    return found


def scattered(random: np.random.Generator, width: int, height: int, count: int) -> list[Thing]:
    """Shapes that do not touch, all of different sizes, no two of the same shape and colour."""
    things: list[Thing] = []
    sizes = np.linspace(0.06, 0.17, count) * min(width, height) * (1.25 if count < 5 else 1.0)
    for size in sizes[::-1]:
        while True:
            x = random.uniform(size + 3, width - size - 3)
            y = random.uniform(size + 3, height - size - 3)
            shape = str(random.choice(SHAPES))
            colour = str(random.choice(list(COLOURS)))
            apart = all(np.hypot(x - t.x, y - t.y) > 1.3 * (size + t.size) + 2 for t in things)
            if apart and (shape, colour) not in {(t.shape, t.colour) for t in things}:
                break
        things.append(Thing(shape, colour, float(x), float(y), float(size)))
    return things


def ground(random: np.random.Generator, width: int, height: int, kind: int) -> Image.Image:
    """A plain, shaded, chequered or striped ground."""
    base = random.integers(205, 250, 3)
    down, across = np.mgrid[0:height, 0:width]
    if kind == 0:
        shade = np.zeros((height, width))
    elif kind == 1:
        shade = -45 * (down / height) - 25 * (across / width)
    elif kind == 2:
        shade = np.where((down // 16 + across // 16) % 2 == 0, 0, -18)
    else:
        shade = np.where((down + 2 * across) // 14 % 2 == 0, 0, -14)
    pixels = np.clip(base + shade[..., None], 0, 255)
    return Image.fromarray(pixels.round().astype(np.uint8))


def painted(things: list[Thing], under: Image.Image) -> Image.Image:
    """The things on a ground, with smooth edges."""
    large = under.resize((under.width * 3, under.height * 3), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(large)
    for thing in things:
        put(pen, thing.shape, COLOURS[thing.colour], thing.x * 3, thing.y * 3, thing.size * 3)
    return shrunk(large, 3)


def _counting(things: list[Thing]) -> list[Asked]:
    colour = max(COLOURS, key=lambda name: sum(thing.colour == name for thing in things))
    shape = max(SHAPES, key=lambda name: sum(thing.shape == name for thing in things))
    plural = {"cross": "crosses"}.get(shape, f"{shape}s")
    count = sum(thing.shape == shape for thing in things)
    return [
        Asked(f"How many {plural} are in the picture?", str(count), "count"),
        Asked(
            f"How many things are {colour}?", str(sum(thing.colour == colour for thing in things)), "count"
        ),
    ]


def _placing(things: list[Thing]) -> list[Asked]:
    leftmost, rightmost = (pick(things, key=lambda thing: thing.x) for pick in (min, max))
    top, large = min(things, key=lambda thing: thing.y), max(things, key=lambda thing: thing.size)
    small = min(things, key=lambda thing: thing.size)
    where = "left" if large.x < small.x else "right"
    letters = sorted({leftmost.words, rightmost.words, top.words, small.words})
    choices = "\n".join(f"{letter}. {words}" for letter, words in zip("ABCD", letters, strict=False))
    return [
        Asked(
            f"Is the {large.words} to the left of the {small.words}?",
            "yes" if where == "left" else "no",
            "yes/no",
        ),
        Asked("Which object is nearest to the top edge?", f"the {top.words}"),
        Asked(
            f"Which object is furthest to the right?\n{choices}\nAnswer with the letter.",
            "ABCD"[letters.index(rightmost.words)],
            "choice",
        ),
    ]


def _telling(things: list[Thing], number: int) -> list[Asked]:
    ordered = sorted(things, key=lambda thing: thing.x)
    large = max(things, key=lambda thing: thing.size)
    if number % 3 == 0:
        rows = [{"shape": thing.shape, "colour": thing.colour} for thing in ordered]
        return [Asked("List all objects from left to right as JSON.", json.dumps(rows), "json")]
    if number % 3 == 1:
        lines = "\n".join(f"{place}. {thing.words}" for place, thing in enumerate(ordered, 1))
        return [Asked("Name the objects from left to right, one a line.", lines, "list")]
    colours = sorted({thing.colour for thing in things})
    words = ", ".join(colours[:-1]) + f" and {colours[-1]}" if len(colours) > 1 else colours[0]
    caption = (
        f"The picture shows {NUMBERS[len(things)]} flat shapes on a light ground. The largest of them is a"
        f" {large.words}. The colours are {words}; {ordered[0].words} is furthest to the left.".replace(
            f"; {ordered[0].words}", f"; the {ordered[0].words}"
        ).replace("a orange", "an orange")
    )
    return [Asked("Describe the picture in three sentences.", caption, "caption")]
