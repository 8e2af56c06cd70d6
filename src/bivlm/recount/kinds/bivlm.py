"""bivlm's own folders: config.json names every packed module, its shape, and the key of its tensors.

What is counted is in the files: all tensors under the key but the bias. docs/format.md has the layout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from bivlm.checkpoint.groups import members
from bivlm.recount.kinds.base import Taken, Unpacked
from bivlm.recount.settings import Settings
from bivlm.recount.stored import StoredTensor


def _each(modules: Mapping[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, key and entry of every module; an entry may describe many experts."""
    for name, entry in modules.items():
        spec = entry if isinstance(entry, dict) else {}
        try:
            yield from (
                (own, key, spec)
                for own, key in zip(members(name), members(str(spec.get("key"))), strict=True)
            )
        except ValueError:
            yield name, spec.get("key"), spec


def take(tensors: Mapping[str, StoredTensor], settings: Settings) -> Iterator[Taken]:
    """The packed modules of the config whose tensors are in the files."""
    modules = settings.quantization.get("modules")
    if settings.method != "bivlm" or not isinstance(modules, dict):
        return
    by_base: dict[str, list[StoredTensor]] = defaultdict(list)
    for key, tensor in tensors.items():
        if not key.endswith(".bias"):
            by_base[key.rpartition(".")[0]].append(tensor)
    for name, key, spec in _each(modules):
        found = by_base.get(str(key).removesuffix("."))
        if not found:
            continue
        kind, shape = f"bivlm {str(spec.get('format'))[:20]}", spec.get("shape")
        if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
            yield Taken(name, kind, tuple(found), None, "config.json has no shape of it")
            continue
        weights = shape[0] * shape[1]
        yield Taken(name, kind, tuple(found), Unpacked(weights, 8 * sum(t.nbytes for t in found) / weights))
