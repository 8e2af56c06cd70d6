"""bivlm's own folders: config.json names every packed module, its shape, and the key of its tensors.

What is counted is in the files: all tensors under the key but the bias. docs/format.md has the layout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from bivlm.recount.kinds.base import Taken, Unpacked
from bivlm.recount.settings import Settings
from bivlm.recount.stored import StoredTensor


def take(tensors: Mapping[str, StoredTensor], settings: Settings) -> Iterator[Taken]:
    """The packed modules of the config whose tensors are in the files."""
    modules = settings.quantization.get("modules")
    if settings.method != "bivlm" or not isinstance(modules, dict):
        return
    by_base: dict[str, list[StoredTensor]] = defaultdict(list)
    for key, tensor in tensors.items():
        if not key.endswith(".bias"):
            by_base[key.rpartition(".")[0]].append(tensor)
    for name, spec in modules.items():
        key = spec.get("key") if isinstance(spec, dict) else None
        found = by_base.get(str(key).removesuffix("."))
        if not found:
            continue
        kind, shape = f"bivlm {str(spec.get('format'))[:20]}", spec.get("shape")
        if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
            yield Taken(name, kind, tuple(found), None, "config.json has no shape of it")
            continue
        weights = shape[0] * shape[1]
        yield Taken(name, kind, tuple(found), Unpacked(weights, 8 * sum(t.nbytes for t in found) / weights))
