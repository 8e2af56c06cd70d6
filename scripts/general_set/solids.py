"""Shaded solids on a floor, in light and shadow: spheres, boxes, cylinders and cones, found by marching rays
through distance fields.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawing import Asked, Drawn, drawn

Points = NDArray[np.float64]
COLOURS = {
    "red": (0.82, 0.12, 0.1),
    "green": (0.12, 0.58, 0.2),
    "blue": (0.12, 0.26, 0.8),
    "yellow": (0.92, 0.78, 0.12),
    "purple": (0.5, 0.2, 0.66),
    "gray": (0.55, 0.55, 0.56),
    "cyan": (0.15, 0.68, 0.72),
    "brown": (0.5, 0.3, 0.16),
}
SOLIDS = ("sphere", "cube", "cylinder", "cone")
SIZES = ((240, 180), (160, 160), (320, 180), (200, 240))
LIGHT = np.array([-0.5, 0.75, -0.55]) / np.linalg.norm([-0.5, 0.75, -0.55])
STEPS, FAR = 48, 12.0


@dataclass(frozen=True)
class Solid:
    """A solid that stands on the floor: its middle, its radius (half of its height), and whether it
    shines.
    """

    shape: str
    colour: str
    x: float
    z: float
    size: float
    shiny: bool

    @property
    def words(self) -> str:
        return f"{self.colour} {self.shape}"


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [_picture(random, number) for number in range(9)]


def _picture(random: np.random.Generator, number: int) -> Drawn:
    solids = _standing(random, 2 + number % 4)
    image = rendered(random, solids, *SIZES[number % len(SIZES)])
    ordered = sorted(solids, key=lambda solid: solid.x)
    near, far = (pick(solids, key=lambda solid: solid.z) for pick in (min, max))
    shiny = [solid for solid in ordered if solid.shiny]
    dull, shape = len(solids) - len(shiny), near.shape
    names = [solid.words for solid in ordered]
    sentence = (
        f"From left to right there are {', '.join(f'a {name}' for name in names[:-1])} and a {names[-1]}."
    )
    asked = [
        Asked("How many objects stand on the floor?", str(len(solids)), "count"),
        Asked(f"What colour is the {shape} nearest to the viewer?", near.colour),
        Asked("What do you see, from left to right? Answer in one sentence.", sentence, "sentence"),
        Asked(f"Is the {far.words} behind the {near.words}?", "yes", "yes/no"),
        Asked(
            f"Are more of the {len(solids)} objects shiny than dull? Think step by step.",
            f"{_counted(len(shiny))} shiny, and {_counted(dull)} dull. {len(shiny)} is"
            f" {'' if len(shiny) > dull else 'not '}more than {dull}. The answer is"
            f" {'yes' if len(shiny) > dull else 'no'}.",
            "steps",
        ),
    ]
    others = {
        "de": ("Wie viele Körper stehen auf dem Boden?", str(len(solids))),
        "es": ("¿Cuántos objetos hay en el suelo?", str(len(solids))),
        "zh": ("地面上有几个物体？", f"{len(solids)}个"),
        "fr": ("Combien d’objets sont posés sur le sol ?", str(len(solids))),
        "ja": ("床の上に物体はいくつありますか。", f"{len(solids)}個"),
    }
    language = list(others)[number % len(others)]
    return drawn(image, *asked, Asked(*others[language], "count", language), photographic=True)


def _counted(count: int) -> str:
    return "1 object is" if count == 1 else f"{count} objects are"


def _standing(random: np.random.Generator, count: int) -> list[Solid]:
    """Solids that do not touch, of different colours."""
    colours = random.permutation(list(COLOURS))
    solids: list[Solid] = []
    while len(solids) < count:
        size, x, z = random.uniform(0.4, 0.75), random.uniform(-1.6, 1.6), random.uniform(-0.9, 1.8)
        if all(np.hypot(x - s.x, z - s.z) > 1.2 * (size + s.size) and abs(x - s.x) > 0.5 for s in solids):
            shape = SOLIDS[int(random.integers(4))]
            solids.append(Solid(shape, str(colours[len(solids)]), x, z, size, bool(random.random() < 0.5)))
    return solids


def _distance(solid: Solid, points: Points) -> NDArray[np.float64]:
    """The distance of points (…, 3) from a solid, negative inside; for a cone a lower bound."""
    x, y, z = (points - np.array([solid.x, solid.size, solid.z])).transpose(2, 0, 1)
    r = solid.size
    if solid.shape == "sphere":
        return np.sqrt(x * x + y * y + z * z) - r
    if solid.shape == "cube":
        turned, depth = 0.86 * x + 0.51 * z, -0.51 * x + 0.86 * z
        gaps = np.stack([abs(turned) - 0.8 * r, abs(y) - r, abs(depth) - 0.8 * r])
        return np.linalg.norm(gaps.clip(0), axis=0) + gaps.max(0).clip(max=0)
    round_ = np.hypot(x, z)
    if solid.shape == "cylinder":
        return np.maximum(round_ - 0.75 * r, abs(y) - r)
    return np.maximum(0.894 * round_ + 0.447 * (y - r), -y - r)


def _nearest(solids: list[Solid], points: Points) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The distance from what is nearest, and which it is; the floor comes after the last solid."""
    gaps = np.stack([*(_distance(solid, points) for solid in solids), points[..., 1]])
    return gaps.min(0), gaps.argmin(0)


def _march(solids: list[Solid], start: Points, way: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where rays end, and whether they hit something."""
    gone = np.full(way.shape[:2], 0.02)
    for _ in range(STEPS):
        gap, _ = _nearest(solids, start + way * gone[..., None])
        gone = np.minimum(gone + gap.clip(1e-3), FAR)
    return start + way * gone[..., None], gone < FAR


def rendered(random: np.random.Generator, solids: list[Solid], width: int, height: int) -> Image.Image:
    """The solids on a floor in front of a wall of light, with shadows and a little noise."""
    down, across = np.mgrid[0:height, 0:width]
    aspect = width / height
    way = np.stack(
        [
            (2 * across / width - 1) * max(aspect, 0.95) * 0.52,
            (1 - 2 * down / height) * 0.52 * max(1.0, 0.95 / aspect) - 0.30,
            np.ones((height, width)),
        ],
        axis=-1,
    )
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    eye = np.broadcast_to(np.array([0.0, 2.0, -4.4]), way.shape)
    points, hit = _march(solids, eye, way)
    gap, which = _nearest(solids, points)
    normal = np.stack([_nearest(solids, points + 1e-4 * axis)[0] - gap for axis in np.eye(3)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-12)
    _, dark = _march(solids, points + 0.03 * normal, np.broadcast_to(LIGHT, way.shape))
    light = (normal @ LIGHT).clip(0) * np.where(dark, 0.12, 1.0)
    tones = np.array([*(COLOURS[solid.colour] for solid in solids), random.uniform(0.5, 0.75, 3)])
    colour = tones[which] * (0.28 + 0.72 * light)[..., None]
    half = LIGHT - way
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    shine = np.array([*(0.7 if solid.shiny else 0.03 for solid in solids), 0.0])[which]
    gleam = (normal * half).sum(-1).clip(0) ** 40
    colour += (shine * gleam * np.where(dark, 0.0, 1.0))[..., None]
    sky = random.uniform(0.75, 0.95, 3) * (0.8 + 0.2 * (1 - down / height))[..., None]
    fog = (np.linalg.norm(points - eye, axis=-1) / FAR)[..., None] ** 3
    colour = np.where(hit[..., None], colour * (1 - fog) + sky * fog, sky)
    colour += random.normal(0, 0.008, colour.shape)
    return Image.fromarray((colour.clip(0, 1) ** 0.85 * 255).round().astype(np.uint8))
