"""The folder of a comparison while and after it is made. Everything in it can be deleted; what is missing is
made again.

OUT/.bivlm-compare/          says whose folder this is; holds the lock and, for packed models that are not
                             measured yet, what packing them took
OUT/reference/               the answers and logits of the full-precision model, for every later run
OUT/models/<run>/            the packed model, while it is measured or when it is to be kept
OUT/runs/<run>.json          one finished run, with the fingerprint of everything that decides its numbers
OUT/comparison.*             page, numbers and picture, written after the last run (page.py)
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bivlm.studies.folder import RunFolder, plain
from bivlm.types import PARTS, PartName


@dataclass(frozen=True)
class PackingCost:
    """What packing a model has taken so far, interrupted runs included, and whether it is whole."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    packed: bool = False


class ComparisonFolder(RunFolder):
    """OUT of a comparison."""

    kind = "comparison"
    mark_name = ".bivlm-compare"
    folders = ("runs", "models")

    def model(self, run: str) -> Path:
        return self.out / "models" / run

    def finished(self, run: str, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a finished run if its fingerprint is the same; None otherwise, and for a failed
        run.
        """
        record = super().finished(run, fingerprint)
        return None if record is None or record["row"]["failure"] else record

    def cost(self, run: str, fingerprint: Mapping[str, Any]) -> PackingCost:
        """The cost of packing this very model in an interrupted run."""
        path = self.mark / f"{run}.json"
        record = self._read(path)
        return (
            PackingCost(**record["cost"])
            if record.get("fingerprint") == plain(fingerprint)
            else PackingCost()
        )

    def write_cost(self, run: str, fingerprint: Mapping[str, Any], cost: PackingCost) -> None:
        """Record the cost; after an interruption the next run adds to it."""
        self._write(self.mark / f"{run}.json", json.dumps({"fingerprint": fingerprint, "cost": asdict(cost)}))

    def settle(self, run: str, *, keep_model: bool) -> None:
        """Delete the files that a finished run no longer needs; a kept model of an earlier comparison
        stays.
        """
        cost = self.mark / f"{run}.json"
        if not keep_model and cost.exists():
            shutil.rmtree(self.model(run), ignore_errors=True)
        cost.unlink(missing_ok=True)


def run_name(preset: str, parts: Sequence[PartName], draw: int = 1) -> str:
    """The file name of a run: the preset with its settings, the parts unless they are all, and the
    calibration draw unless it is the first.
    """
    name = re.sub(r"[^\w.,=+-]+", "_", preset)
    name += "" if tuple(parts) == PARTS else f"@{'+'.join(parts)}"
    return name if draw == 1 else f"{name}@draw{draw}"
