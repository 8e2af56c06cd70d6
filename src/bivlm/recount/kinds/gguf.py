"""GGUF: every tensor is one weight, of a type of ggml; the header has the shape of the unpacked weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bivlm.recount.ggml_types import FULL
from bivlm.recount.kinds.base import Taken, Unpacked
from bivlm.recount.settings import Settings
from bivlm.recount.stored import StoredTensor


def take(tensors: Mapping[str, StoredTensor], settings: Settings) -> Iterator[Taken]:
    """The tensors of a packed type."""
    for tensor in tensors.values() if settings.gguf else ():
        if tensor.dtype not in FULL:
            bits = 8 * tensor.nbytes / max(tensor.numel, 1)
            yield Taken(tensor.name, tensor.dtype, (tensor,), Unpacked(tensor.numel, bits))
