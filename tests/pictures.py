"""Small pictures that differ, as files have them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encoded(shade: int, kind: str = "PNG") -> bytes:
    """A picture that differs from those of other shades below 256."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade * 12 % 256, 255 - shade, 40)).save(buffer, kind)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Random colours, the same for the same seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colours)
