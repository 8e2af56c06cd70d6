"""Small pictures that differ, as files have them."""

from __future__ import annotations

import io

from PIL import Image


def encoded(shade: int, kind: str = "PNG") -> bytes:
    """A picture that differs from those of other shades below 256."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade * 12 % 256, 255 - shade, 40)).save(buffer, kind)
    return buffer.getvalue()
