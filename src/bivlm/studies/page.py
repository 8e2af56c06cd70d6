"""The result of a study for readers: picture, page and numbers in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bivlm.checkpoint.durable import write_text
from bivlm.errors import InputError


def write_result(
    folder: Path,
    name: str,
    content: Mapping[str, Any],
    markdown: str,
    draw: Callable[[Path], None] | None,
) -> None:
    """`name`.png where there is something to draw, `name`.md, and `name`.json last; each the old one or the
    whole new one.

    Raises InputError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if draw is not None:
            draw(folder / f"{name}.png")
        write_text(folder / f"{name}.md", markdown)
        write_text(folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); make room, or give --out a folder that can be"
            " written"
        ) from error
