"""What the tests of analyses share."""

from __future__ import annotations

from pathlib import Path

import torch

from tiny import tiny_model


def saved(kind: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A tiny model of a family, as a folder without a processor."""
    tiny_model(kind, dtype).save_pretrained(folder)
    return folder
