"""The page of an analysis: plots, tables and numbers, in one call; and a folder that it may be written to."""

from __future__ import annotations

import os
from pathlib import Path

from bivlm.errors import InputError
from bivlm.studies.analyze.plot import analysis_plot
from bivlm.studies.analyze.result import Analysis
from bivlm.studies.analyze.table import analysis_markdown
from bivlm.studies.page import write_result

NAME = "analysis"
NAMES = tuple(f"{NAME}.{kind}" for kind in ("png", "md", "json"))


def check_out(out: Path) -> None:
    """InputError when `out` is a file, holds what no analysis wrote, or cannot be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out is a folder for the analysis")
    known = {*NAMES, *(f"{name}.writing" for name in NAMES)}
    foreign = sorted(path.name for path in out.iterdir() if path.name not in known) if out.exists() else []
    if foreign:
        raise InputError(f"{out} holds files that no analysis wrote ({foreign[0]}); give --out a new folder")
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"{out} cannot be made, because {nearest} is no folder that can be written; give --out another"
            " folder"
        )


def write_page(found: Analysis, folder: Path) -> None:
    """analysis.png, analysis.md and analysis.json, in place of those of an earlier analysis.

    Raises InputError when the folder cannot be written.
    """
    write_result(
        folder,
        NAME,
        found.to_dict(),
        analysis_markdown(found, picture=f"{NAME}.png"),
        lambda path: analysis_plot(found, path),
    )
