"""The rest: stored tensors that belong to no unit, which are copied unchanged."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bivlm.checkpoint.source import SourceModel

SHARD_BYTES = 1 << 30  # of a shard of the rest, about: writing one needs no more memory than this


def split_rest(source: SourceModel, units: Sequence[str], shared: Collection[str]) -> list[list[str]]:
    """The names of the tensors outside the units (by their paths), in shards of about SHARD_BYTES. `shared`
    names parameters that share the weight of a packed one: they are left out.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, entry in sorted({**source.entries, **source.extra}.items()):
        if name in shared or any(name.startswith(f"{unit}.") for unit in units):
            continue
        if shards[-1] and size + entry.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += entry.nbytes
    return [shard for shard in shards if shard]
