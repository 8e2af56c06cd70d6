"""The page of a pruning study: heat map, tables and numbers, in one call."""

from __future__ import annotations

from pathlib import Path

from bivlm.studies.page import write_result
from bivlm.studies.prune.plot import pruning_plot
from bivlm.studies.prune.result import PruningStudy
from bivlm.studies.prune.table import pruning_markdown

NAME = "pruning"


def write_page(found: PruningStudy, folder: Path, name: str = NAME) -> None:
    """`name`.png, `name`.md and `name`.json. Raises InputError when the folder cannot be written."""
    write_result(
        folder,
        name,
        found.to_dict(),
        pruning_markdown(found, picture=f"{name}.png"),
        lambda path: pruning_plot(found, path),
    )
