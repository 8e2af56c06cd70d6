"""What the tests of comparisons share: two quick presets, how models are asked, copies of a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from bivlm.studies.study import RunSettings

PRESETS = [
    "bivlm-paper:bands=1,salient_max=0",
    "bivlm-paper:bands=2,salient_max=0",
]  # without a tail to search for: quick
LANGUAGE = ("language",)
ASK = RunSettings(batch_size=2, max_new_tokens=3)


def records(folder: Path) -> dict[str, bytes]:
    """The finished runs of a comparison's folder, byte by byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("runs/*.json"))}


def copy_of(out: Path, target: Path) -> Path:
    """A comparison's folder once more, to be changed."""
    return shutil.copytree(out, target)
