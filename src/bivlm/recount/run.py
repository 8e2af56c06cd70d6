"""`recount`: bytes and bits of whatever a path or a name of the hub leads to."""

from __future__ import annotations

from pathlib import Path

from bivlm.recount.checkpoints import checkpoints_of
from bivlm.recount.count import count
from bivlm.recount.place import place_of
from bivlm.recount.result import Recount


def recount(given: str | Path, *, files: str | None = None, mmproj: str | None = None) -> list[Recount]:
    """Count a local file, a local folder, or a repository of the hub (OWNER/NAME or OWNER/NAME@REVISION) from
    the headers of its files: one result for each model in it. Nothing is executed, and no weights are read.

    `files` is a pattern that chooses among the files ("*IQ1_S*"), `mmproj` the name of the GGUF file with the
    tower. Raises InputError for what has no weights that are read, and for damaged headers.
    """
    return [count(checkpoint) for checkpoint in checkpoints_of(place_of(given), files, mmproj)]
