"""Common code of the pictures: distinguishable styles, and a file that is written completely or not at all.

matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bivlm.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# dark enough for white paper, and distinguishable for most colour-blind readers; the markers differ as well
STYLES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#a8379b", "D"),
    ("#b8860b", "v"),
    ("#56a4d6", "P"),
    ("#8b1a1a", "X"),
    ("#555555", "<"),
    ("#6b4fbb", ">"),
    ("#5f8f00", "h"),
    ("#e0569b", "p"),
    ("#00868b", "*"),
    ("#7a4a1e", "d"),
    ("#1f3d7a", "H"),
    ("#c0392b", "8"),
    ("#3d6b47", "^"),
)


def require_matplotlib() -> None:
    """InputError, before anything long, when the picture could not be drawn."""
    if find_spec("matplotlib") is None:
        raise InputError("the picture needs the package matplotlib: pip install 'bivlm[plots]'")


def save_picture(figure: Figure, path: Path) -> None:
    """Write the figure as PNG; an interruption leaves the old file or none."""
    temporary = path.with_name(path.name + ".writing")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
