"""The page of a comparison: picture, table and numbers, in one call."""

from __future__ import annotations

from pathlib import Path

from bivlm.studies.compare.plot import comparison_plot
from bivlm.studies.compare.result import Comparison
from bivlm.studies.compare.table import comparison_markdown
from bivlm.studies.page import write_result

NAME = "comparison"


def write_page(found: Comparison, folder: Path, name: str = NAME, *, picture: bool = True) -> None:
    """`name`.md, `name`.json and, where `picture` and unless it is a parts study, `name`.png.

    Raises InputError when the folder cannot be written.
    """
    drawn = picture and not found.study
    write_result(
        folder,
        name,
        found.to_dict(),
        comparison_markdown(found, picture=f"{name}.png" if drawn else None),
        (lambda path: comparison_plot(found, path)) if drawn else None,
    )
