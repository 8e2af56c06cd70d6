"""Videos that differ, as frames in memory and as files have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 40


def frames(count: int, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[Image.Image, ...]:
    """Frames of noise, no two of which are alike."""
    drawn = np.random.default_rng(seed).integers(0, 256, (count, size[1], size[0], 3), dtype=np.uint8)
    return tuple(map(Image.fromarray, drawn))


def shades(count: int) -> list[Image.Image]:
    """Grey frames, each lighter than the one before: what is read shows which they are."""
    return [Image.new("RGB", (WIDTH, HEIGHT), (20 * number,) * 3) for number in range(count)]


def shade_of(frame: Image.Image) -> float:
    """The number of a frame among `shades`."""
    return float(np.asarray(frame).mean()) / 20


def animation(path: Path, count: int, **settings: object) -> Path:
    """An animation of `shades`, in the format of the path's ending."""
    first, *others = shades(count)
    first.save(path, save_all=True, append_images=others, **settings)
    return path


def folder_of(path: Path, count: int) -> Path:
    """A folder with `shades` as frame0.png, frame1.png, … frame10.png, …"""
    path.mkdir()
    for number, frame in enumerate(shades(count)):
        frame.save(path / f"frame{number}.png")
    return path
