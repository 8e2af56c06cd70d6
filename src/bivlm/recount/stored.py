"""What the headers say is stored, and what is counted of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

HEADER_LIMIT = 100_000_000  # bytes of a header that are read at most: the limit of safetensors itself


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, from the header alone. `shape` is what the file says: of packed codes in
    safetensors, of the unpacked weight in GGUF.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of one file: its tensors by name, its metadata, and remarks for the reader of the table."""

    file: str
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counted:
    """All that is stored for one weight of the model: the tensors of a packed linear, or a single tensor.

    `weights` counts those of the unpacked model; None where the layout is not known. `stored_as` is what
    people call the layout ("GPTQ 4-bit", "Q2_K", "BF16"). `packed` says whether it is fewer than the 16 or 32
    bits that a weight has in training.
    """

    name: str
    part: str
    weights: int | None
    nbytes: int
    stored_as: str
    packed: bool
