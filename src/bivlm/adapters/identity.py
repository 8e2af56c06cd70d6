"""Which packed model an adapter belongs to.

An adapter corrects the errors of one packed model. On another one, even of the same source, it adds what was
learned for other errors; nothing would look wrong but the answers. So its record holds what its base was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bivlm.checkpoint.modules import read_modules
from bivlm.checkpoint.place import packed_config
from bivlm.checkpoint.seal import module_checksum, read_seal
from bivlm.checkpoint.shards import checksum, read_entries, read_tensors, to_json
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError, cut


@dataclass(frozen=True)
class BaseIdentity:
    """A packed model: its source's name, its recipe, the identity of its job, and a digest of the checksums
    of all packed modules, which decides.
    """

    name: str
    recipe: str
    job: str
    modules: str

    def __str__(self) -> str:
        return f"{cut(self.name)} packed with {cut(self.recipe)} (job {cut(self.job, 12)})"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def base_identity(folder: Path) -> BaseIdentity:
    """The identity of a packed folder. InputError for a folder that bivlm did not pack."""
    config = packed_config(folder)
    if config is None:
        raise InputError(
            f"{folder} is not packed by bivlm, and adapters are trained on packed models; `bivlm quantize"
            f" {folder} OUT` packs it, and for the full-precision model there is peft"
        )
    quantization = config["quantization_config"]
    modules, seal = read_modules(quantization), read_seal(folder)
    if seal is None:  # transformers saved the folder again
        tensors = {
            key: checksum(tensor)
            for key, entry in read_entries(weight_files(folder)).items()
            for tensor in read_tensors([entry], copy=False).values()
        }
    else:
        tensors = seal.tensors
    entries = {spec.entry: spec.raw for spec in modules.values()}
    sums = {name: module_checksum(raw, tensors) for name, raw in entries.items()}
    return BaseIdentity(
        name=_text(quantization.get("source"), "name"),
        recipe=_text(quantization.get("recipe"), "name"),
        job=_text(quantization, "job"),
        modules=hashlib.sha256(to_json(sums).encode()).hexdigest()[:16],
    )


def read_identity(record: Any) -> BaseIdentity:
    """An identity from an adapter's record. InputError if it is damaged."""
    names = [field.name for field in fields(BaseIdentity)]
    if not isinstance(record, Mapping) or not all(isinstance(record.get(name), str) for name in names):
        raise InputError("its base is not described; the file is damaged: get it again")
    return BaseIdentity(**{name: record[name] for name in names})


def _text(content: Any, name: str) -> str:
    """A text in a record; "unknown" where there is none."""
    found = content.get(name) if isinstance(content, Mapping) else None
    return found if isinstance(found, str) else "unknown"
