"""The rules of docs/format.md for a weight in `lowrank`, of tensors or numpy arrays. The last one is about
the numbers of both factors, and needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.checks import check_density, known_settings, require
from bivlm.formats.encoding.part_checks import FORMAT, check_names, check_part, part_of

LEFT, RIGHT = "left_", "right_"
MOST_RANK = 1 << 31
MOST_NUMBERS_PER_BYTE = 256  # of a factor: the check expands both


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `LowrankWeight.encode` cannot have written."""
    parts = factors_of(packed)
    check_names(packed, list(parts), [])
    for prefix, part in parts.items():
        check_part(prefix, part)
        check_factor_density(prefix.removesuffix("_"), part)
    check_density(packed.shape, packed.nbytes)
    from bivlm.formats.lowrank import check_size
    from bivlm.formats.nested import INSIDE

    left, right = (INSIDE[part.format].decode(_in_torch(part)).dequantize() for part in parts.values())
    check_size(left, right)


def _in_torch(part: PackedTensor) -> PackedTensor:
    import torch

    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.array(tensor)) if isinstance(tensor, np.ndarray) else tensor
        for name, tensor in part.tensors.items()
    }
    return replace(part, tensors=tensors)


def factors_of(packed: PackedTensor) -> Mapping[str, PackedTensor]:
    """A and B as packed weights, by their prefixes. Only settings and shape are looked at: ValueError where
    they cannot be those of a weight.
    """
    given = packed.settings if isinstance(packed.settings, Mapping) else {}
    inside = [name for name in given if isinstance(name, str) and name.startswith((LEFT, RIGHT))]
    needed = ["rank", f"{LEFT}{FORMAT}", f"{RIGHT}{FORMAT}"]
    rank = known_settings(packed, "lowrank", needed, inside)["rank"]
    require(type(rank) is int and 1 <= rank < MOST_RANK, f"'rank' is {rank!r}; needs an integer, at least 1")
    rows, columns = packed.shape
    return {LEFT: part_of(packed, LEFT, (rows, rank)), RIGHT: part_of(packed, RIGHT, (rank, columns))}


def check_factor_density(name: str, part: PackedTensor) -> None:
    rows, columns = part.shape
    require(
        rows * columns <= MOST_NUMBERS_PER_BYTE * part.nbytes,
        f"'{name}' is {(rows, columns)} in {part.nbytes} bytes; a factor has at most"
        f" {MOST_NUMBERS_PER_BYTE} numbers for each of its bytes",
    )
