"""The checksums of a packed folder, in the metadata of its index (format 2):

    crc32     of the bytes of every tensor
    modules   of every packed module: its entry in config.json together with the checksums of its tensors
    files     of config.json, and of every file that loading reads besides the weights

They find damage and honest mistakes: a flipped bit, a file of another version, an edited number. They are no
signature: who changes a folder on purpose can compute them again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bivlm.checkpoint.groups import members
from bivlm.checkpoint.modules import FORMAT_VERSION
from bivlm.checkpoint.shards import INDEX_NAME, read_json
from bivlm.checkpoint.weight_files import index_of
from bivlm.errors import InputError

READ_BY_LOADERS = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".spm", ".bpe"}
_PIECE = 1 << 22


@dataclass(frozen=True)
class Seal:
    """The checksums of a folder, eight hexadecimal digits each; format 1 has those of the tensors alone."""

    tensors: Mapping[str, str]
    modules: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    version: int = FORMAT_VERSION

    def to_metadata(self) -> dict[str, Any]:
        return {
            "format_version": self.version,
            "crc32": dict(self.tensors),
            "modules": dict(self.modules),
            "files": dict(self.files),
        }


def read_seal(folder: Path) -> Seal | None:
    """The checksums of a folder; None if its weights are not those of an index with checksums (transformers
    saved the folder again). Raises InputError for checksums of a wrong form.
    """
    index = index_of(folder)
    metadata = read_json(index).get("metadata") if index is not None else None
    found = metadata.get("bivlm") if isinstance(metadata, Mapping) else None
    if found is None or not isinstance(found, Mapping):
        return None
    version = found.get("format_version")
    names = ("crc32",) if version == 1 else ("crc32", "modules", "files")
    lists = [_checksums(found.get(name)) for name in names]
    if type(version) is not int or None in lists:
        raise InputError(f"{folder / INDEX_NAME}: its checksums are damaged; get the file again")
    return Seal(*(one or {} for one in lists), version=version)


def module_checksum(spec: Mapping[str, Any], tensors: Mapping[str, str]) -> str:
    """The checksum of a module's entry in config.json with those of its tensors, by key. An entry of several
    experts has the tensors of all of them, by their whole keys.
    """
    prefix = spec["key"]
    if "[" in prefix:
        own = {key + name: tensors.get(key + name, "") for key in members(prefix) for name in spec["tensors"]}
    else:
        shared = spec.get("shared", {})
        own = {name: tensors.get(shared.get(name, prefix + name), "") for name in spec["tensors"]}
    text = json.dumps([spec, own], sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def text_checksum(content: str) -> str:
    """The checksum of a text file with this content."""
    return f"{zlib.crc32(content.encode()):08x}"


def file_checksum(path: Path) -> str:
    """The checksum of a file's bytes. Raises InputError if it cannot be read."""
    value = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                value = zlib.crc32(piece, value)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    return f"{value:08x}"


def _checksums(found: Any) -> dict[str, str] | None:
    """A list of checksums by name; None for anything else."""
    if not isinstance(found, Mapping):
        return None
    sums = {name: value for name, value in found.items() if isinstance(value, str) and len(value) == 8}
    return sums if len(sums) == len(found) else None
