"""Tiny members of every supported family: seeded models built from their configs, real processors,
checkpoints on the disk, and questions.

    model, processor = tiny_model("mllama"), tiny_processor("mllama")
    folder = tiny_checkpoint("mllama", tmp_path / "model", torch.bfloat16)

A new kind is an entry in a file of kinds; ALL has them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T

from bivlm.contracts import Member, tiny_samples
from tiny import kinds, kinds_experts, kinds_more, kinds_tail, kinds_today
from tiny.kind import TEXT_LIMIT, Kind

__all__ = [
    "KINDS",
    "MEMBERS",
    "SCALED_EMBEDDING",
    "TEXT_LIMIT",
    "TIED",
    "each",
    "tiny_checkpoint",
    "tiny_config",
    "tiny_model",
    "tiny_processor",
    "tiny_samples",
]

ALL: dict[str, Kind] = {
    **kinds.ALL, **kinds_today.ALL, **kinds_more.ALL, **kinds_tail.ALL, **kinds_experts.ALL,
}  # fmt: skip
KINDS: tuple[str, ...] = tuple(ALL)
TIED: frozenset[str] = frozenset(name for name, kind in ALL.items() if kind.tied)
SCALED_EMBEDDING: frozenset[str] = frozenset(name for name, kind in ALL.items() if kind.scaled_embedding)


def each(names: Iterable[str] = KINDS) -> list[Any]:
    """Kinds as parameters of a test: those that are slow run with the marker `slow` alone."""
    slow = pytest.mark.slow
    return [pytest.param(name, id=name, marks=slow if ALL[name].slow else ()) for name in names]


def tiny_config(kind: str) -> T.PretrainedConfig:
    return ALL[kind].make_config()


def tiny_model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    return ALL[kind].make_model(dtype)


def tiny_processor(kind: str) -> Any:
    return ALL[kind].make_processor()


def tiny_checkpoint(kind: str, folder: Path, dtype: torch.dtype = torch.float32, **save: Any) -> Path:
    """Model and processor as `save_pretrained` writes them (the hub's layout); `save` goes to it
    (max_shard_size="100KB"). Returns the folder.
    """
    tiny_model(kind, dtype).save_pretrained(folder, **save)
    tiny_processor(kind).save_pretrained(folder)
    return folder


def _member(name: str, kind: Kind) -> Member:
    return Member(
        name,
        kind.family,
        lambda dtype: (kind.make_model(dtype), kind.make_processor()),
        kind.prompt,
        tied=kind.tied,
        fixed_tokens=kind.fixed_tokens,
        scaled_embedding=kind.scaled_embedding,
        needs_image=kind.needs_image,
        drops=kind.drops,
        slow=kind.slow,
    )


MEMBERS: tuple[Member, ...] = tuple(_member(name, kind) for name, kind in ALL.items())
