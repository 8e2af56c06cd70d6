"""Tensors that long work keeps for when it is taken up again: with a checksum, so that what is damaged counts
as not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bivlm.checkpoint.seal import text_checksum
from bivlm.checkpoint.shards import checksum, read_entries, read_tensors, write_shard
from bivlm.errors import InputError

CHECKSUM = "checksum"  # the name of the tensor that holds it


def write_kept(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file that is absent, the old one, or complete; its folder is made if it is
    missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = torch.tensor(int(_sum_of(tensors), 16), dtype=torch.int64, device="cpu")
    write_shard(path, {**tensors, CHECKSUM: own})


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """The tensors that `write_kept` wrote; None if the file is missing or damaged."""
    try:
        tensors = dict(read_tensors(read_entries([path]).values())) if path.exists() else {}
    except InputError:
        return None
    own = tensors.pop(CHECKSUM, None)
    whole = own is not None and own.numel() == 1 and int(own) == int(_sum_of(tensors), 16)
    return tensors if whole else None


def _sum_of(tensors: Mapping[str, Tensor]) -> str:
    """One CRC-32 of all names and contents, hexadecimal."""
    return text_checksum("\n".join(f"{name} {checksum(tensors[name])}" for name in sorted(tensors)))
