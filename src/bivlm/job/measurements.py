"""What a job measures on the full-precision model alone, gradients and predictions: kept in the job's own
folder, or in a folder of the user for other jobs on the same model and data.

Every kind has a folder whose name is a digest of everything that decides it, so nothing is taken for anything
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bivlm.checkpoint.output import digest
from bivlm.checkpoint.source import SourceModel

DIGITS = 16  # of the digest, in a folder's name


@dataclass(frozen=True)
class Measurements:
    """Where measurements on `source` and calibration data with the digest `data` are kept: below `folder`."""

    folder: Path
    source: SourceModel
    data: str

    def place(self, kind: str, details: Sequence[str]) -> Path:
        """The folder for measurements of one kind; `details` name what else decides them."""
        decides = {
            "kind": kind,
            "details": list(details),
            "source": self.source.digests,
            "data": self.data,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
        return self.folder / f"{kind}-{digest(decides)[:DIGITS]}"
