"""Two pictures that belong together: what has changed, which one has more, are they the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from dials import clock
from drawing import Asked, Drawn
from faces import FACES, portrait
from photographs import mixed, noise, picture
from scenes import Thing, ground, painted, scattered
from tables import table


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [_gone(random), _recoloured(random), _moved(random), _hours(), _moods(), _prices(), _noisy(random)]


def _scene(random: np.random.Generator, kind: int, count: int) -> tuple[list[Thing], Image.Image]:
    return scattered(random, 192, 144, count), ground(random, 192, 144, kind)


def _gone(random: np.random.Generator) -> Drawn:
    things, under = _scene(random, 0, 5)
    lost = things[2]
    return Drawn(
        (painted(things, under), painted([thing for thing in things if thing is not lost], under)),
        (
            Asked(
                "What has changed from the first picture to the second?",
                f"The {lost.words} is gone.",
                "sentence",
            ),
            Asked("How many shapes are there in the second picture?", "4", "count"),
            Asked("两张图一样吗？", "不一样，第二张少了一个图形。", "sentence", "zh"),
        ),
    )


def _recoloured(random: np.random.Generator) -> Drawn:
    things, under = _scene(random, 1, 4)
    other = "teal" if things[0].colour != "teal" else "orange"
    changed = [replace(things[0], colour=other), *things[1:]]
    old = things[0]
    return Drawn(
        (painted(things, under), painted(changed, under)),
        (
            Asked("Which object has another colour in the second image?", f"the {old.shape}, now {other}"),
            Asked("Is the number of objects the same?", "yes", "yes/no"),
            Asked("Hat sich etwas bewegt?", "Nein, nur eine Farbe ist anders.", "sentence", "de"),
        ),
    )


def _moved(random: np.random.Generator) -> Drawn:
    _, under = _scene(random, 3, 3)
    cup, book = Thing("circle", "red", 40, 70, 20), Thing("rectangle", "blue", 130, 90, 26)
    return Drawn(
        (painted([cup, book], under), painted([replace(cup, x=160, y=40), book], under)),
        (
            Asked(
                "Describe the difference between the two images.",
                "In the first image the red circle is on the left. In the second it has moved to the upper"
                " right, above the blue rectangle, which has not moved.",
                "caption",
            ),
            Asked("¿Qué figura se ha movido?", "El círculo rojo.", "short", "es"),
        ),
    )


def _hours() -> Drawn:
    faces = [
        clock(96, 2, 15, (255, 255, 255), (60, 60, 70), True),
        clock(96, 5, 0, (255, 255, 255), (60, 60, 70), True),
    ]
    return Drawn(
        tuple(faces),
        (
            Asked(
                "How much time has passed from the first clock to the second?",
                "The first shows 2:15 and the second 5:00. That is 2 hours and 45 minutes.",
                "steps",
            ),
            Asked("Какие часы показывают более позднее время?", "Вторые.", "short", "ru"),
        ),
    )


def _moods() -> Drawn:
    glad = replace(FACES[1], mood="happy")
    return Drawn(
        (portrait(FACES[1], (230, 230, 240)), portrait(glad, (230, 230, 240))),
        (
            Asked("How has the mood of the person changed?", "From sad to happy."),
            Asked(
                "Est-ce la même personne sur les deux images ?",
                "Oui, seule l’expression change.",
                "sentence",
                "fr",
            ),
        ),
    )


def _prices() -> Drawn:
    old = [("item", "price"), ("bread", "2.40"), ("butter", "1.90"), ("cheese", "6.50")]
    new = [*old[:2], ("butter", "2.30"), old[3]]
    return Drawn(
        (table("January", old), table("June", new)),
        (
            Asked(
                "Which price has risen, and by how much?",
                "That of butter: from 1.90 to 2.30, by 0.40.",
                "steps",
            ),
            Asked("O preço do pão mudou?", "Não, continua 2.40.", "sentence", "pt"),
        ),
    )


def _noisy(random: np.random.Generator) -> Drawn:
    leaves = mixed(noise(random, 128, 128, 1.2), (0.1, 0.15, 0.3), (0.9, 0.8, 0.6))
    return Drawn(
        (picture(random, leaves, 0.005), picture(random, leaves, 0.15)),
        (
            Asked("Which of the two pictures is noisier?\nA. the first\nB. the second", "B", "choice"),
            Asked("Quale immagine è più nitida?", "La prima.", "short", "it"),
        ),
        photographic=True,
    )
