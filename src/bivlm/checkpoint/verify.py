"""Checks a packed folder against its checksums, without loading the model: shards, modules, the files beside
them, and that every packed weight decodes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bivlm.checkpoint.durable import sync_folder, write_text
from bivlm.checkpoint.guards import check_files, check_holds_model
from bivlm.checkpoint.modules import ModuleSpec, is_packed, read_modules
from bivlm.checkpoint.seal import READ_BY_LOADERS, Seal, file_checksum, module_checksum, read_seal
from bivlm.checkpoint.shards import (
    INDEX_NAME,
    TensorEntry,
    array_checksum,
    read_arrays,
    read_entries,
    read_json,
    to_json,
)
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.formats.base import PackedTensor
from bivlm.formats.checks import check_packed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verified:
    """What was checked in a folder: how many of each, and whether it has checksums (`format_version` 0:
    none).
    """

    format_version: int
    shards: int
    tensors: int
    modules: int
    files: int


def verify_folder(folder: Path) -> Verified:
    """Check everything that a packed folder promises. Raises InputError that names the first fault."""
    check_holds_model(folder)
    check_files(folder)
    config = read_json(folder / "config.json")
    if not is_packed(config):
        raise InputError(f"{folder} is not packed by bivlm; only packed folders have checksums to verify")
    modules, shards = read_modules(config["quantization_config"]), weight_files(folder)
    seal, entries = read_seal(folder), read_entries(shards)
    verify_files(folder, seal)
    verify_shards(shards)
    verify_modules(folder, modules, seal, entries)
    verify_packed(folder, modules, entries)
    files = () if seal is None else seal.files
    return Verified(0 if seal is None else seal.version, len(shards), len(entries), len(modules), len(files))


def verify_shards(shards: Sequence[Path]) -> None:
    """Compare the shards of one folder with the checksums of its index.

    Raises InputError, naming the tensor, if one is missing or its bytes have changed. A folder without
    checksums (saved again by transformers) is not checked, and the log says so.
    """
    folder = shards[0].parent
    seal = read_seal(folder)
    if seal is None:
        logger.warning("%s has no checksums; it is read without the check", folder)
        return
    entries = read_entries(shards)
    missing = [key for key in seal.tensors if key not in entries]
    if missing:
        raise InputError(
            f"{folder} lacks the tensor {missing[0]} ({len(missing)} are missing); copy or quantize it again"
        )
    with ThreadPoolExecutor(4) as pool:  # zlib and disk reads release the GIL
        own = ([entry for entry in entries.values() if entry.shard == shard] for shard in shards)
        for damaged in pool.map(lambda some: _first_damaged(some, seal.tensors), own):
            if damaged:
                raise InputError(f"{damaged}; copy or quantize it again")


def verify_modules(
    folder: Path, modules: Mapping[str, ModuleSpec], seal: Seal | None, entries: Mapping[str, TensorEntry]
) -> None:
    """Compare the packed modules of config.json with the shards' headers and with their checksums. Raises
    InputError that names the module.
    """
    config = folder / "config.json"
    for name, spec in modules.items():
        try:
            spec.check_stored(entries)
        except ValueError as error:
            raise InputError(f"{config}: the module {name}: {error}; copy or quantize it again") from error
    if seal is None or seal.version < 2:
        return
    entries_of = {spec.entry: spec.raw for spec in modules.values()}
    if sorted(seal.modules) != sorted(entries_of):
        odd = sorted({*seal.modules} ^ {*entries_of})[0]
        raise InputError(f"{config} and {INDEX_NAME} disagree about the module {odd}; copy the folder again")
    for name, raw in entries_of.items():
        if module_checksum(raw, seal.tensors) != seal.modules[name]:
            raise InputError(
                f"{config}: the settings of the module {name} have changed since they were written; copy or"
                " quantize it again"
            )


def verify_files(folder: Path, seal: Seal | None) -> None:
    """Compare processor, tokenizer, templates and settings with their checksums. Raises InputError that names
    the file.
    """
    for name, expected in ({} if seal is None else seal.files).items():
        path = folder / name
        if not path.is_file():
            if path.suffix not in READ_BY_LOADERS:
                continue  # a licence, say: a download may leave it out
            raise InputError(f"{folder} lacks {name}; copy or quantize it again")
        if file_checksum(path) != expected:
            raise InputError(
                f"{path} has changed since it was written; copy it again, or, if you changed it yourself:"
                f" bivlm verify {folder} --accept"
            )


def accept_files(folder: Path) -> list[str]:
    """Take the present files besides the weights as right, and write their checksums; returns the names of
    those that had changed. A file that is gone loses its checksum. The weights' checksums stay.
    """
    seal = read_seal(folder)
    if seal is None or seal.version < 2:
        raise InputError(f"{folder} has no checksums of its files; there is nothing to accept")
    now = {name: file_checksum(folder / name) for name in seal.files if (folder / name).is_file()}
    changed = [name for name, expected in seal.files.items() if now.get(name) != expected]
    index = read_json(folder / INDEX_NAME)
    index["metadata"]["bivlm"]["files"] = now
    write_text(folder / INDEX_NAME, to_json(index))
    sync_folder(folder)
    return changed


def verify_packed(
    folder: Path, modules: Mapping[str, ModuleSpec], entries: Mapping[str, TensorEntry]
) -> None:
    """Check the form of every packed weight, shard by shard, in the files: afterwards nothing of them is in
    memory. Raises InputError that names the weight.
    """
    by_shards: dict[tuple[Path, ...], list[str]] = {}
    for name, spec in modules.items():
        shards = dict.fromkeys(entries[spec.stored_at(part)].shard for part in spec.stored)
        by_shards.setdefault(tuple(shards), []).append(name)
    for names in by_shards.values():
        wanted = [entries[modules[name].stored_at(part)] for name in names for part in modules[name].stored]
        stored = read_arrays(wanted)
        for name in names:
            spec = modules[name]
            tensors = {part: stored[spec.stored_at(part)] for part in spec.stored}
            try:
                check_packed(PackedTensor(spec.format, spec.shape, tensors, spec.settings), spec.format)
            except ValueError as error:
                raise InputError(f"{folder}: the packed weight {name} is damaged: {error}") from error


def _first_damaged(entries: Sequence[TensorEntry], expected: Mapping[str, str]) -> str | None:
    """What is wrong with the tensors of one shard, if anything is."""
    stored = read_arrays(entries, raw=True)
    for entry in entries:
        if entry.key not in expected:
            return f"{entry.shard} holds the tensor {entry.key}, which its index does not know"
        if array_checksum(stored[entry.key]) != expected[entry.key]:
            return f"{entry.shard}: the bytes of tensor {entry.key} have changed since they were written"
    return None
