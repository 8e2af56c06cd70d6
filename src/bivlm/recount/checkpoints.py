"""Which files of a place are one model, and their headers.

safetensors   model.safetensors, else the shards that the index names, else all of the folder
GGUF          the shards of one split, with the one mmproj file next to them
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from bivlm.errors import InputError, cut
from bivlm.recount.gguf_header import read_gguf
from bivlm.recount.place import Place
from bivlm.recount.safetensors_header import read_safetensors
from bivlm.recount.settings import Settings
from bivlm.recount.stored import Header, StoredTensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OTHERS = (".onnx", ".h5", ".msgpack", ".tflite", ".npz")
# files that stand for quantization_config, of tools that do not write it into config.json
STAND_INS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model with their headers, what its configs say, and remarks."""

    name: str
    files: Mapping[str, int]
    headers: tuple[Header, ...]
    settings: Settings
    remarks: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """All tensors by name. Raises InputError if two files have the same."""
        found: dict[str, StoredTensor] = {}
        for header in self.headers:
            for name, tensor in header.tensors.items():
                if name in found:
                    raise InputError(
                        f"{self.name}: the tensor {cut(name)} is in {found[name].file} and in {header.file};"
                        " one of them does not belong to this model"
                    )
                found[name] = tensor
        return found


def checkpoints_of(place: Place, pattern: str | None = None, mmproj: str | None = None) -> list[Checkpoint]:
    """The models of a place; `pattern` chooses among its files, `mmproj` is the name of the projector's GGUF.

    Raises InputError if there are no weights that are read, with what there is instead.
    """
    names = [name for name in place.files if pattern is None or fnmatch.fnmatch(name, pattern)]
    if place.chosen is not None:
        names = _with_its_split(place.chosen, names)
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[str(PurePosixPath(name).parent)].append(name)
    found = []
    for folder, inside in folders.items():
        found += _safetensors(place, folder, [name for name in inside if name.endswith(".safetensors")])
    found += _ggufs(place, [name for name in names if _is_gguf(place, name)], mmproj)
    if not found:
        raise _nothing(place, names, pattern)
    unread = sorted(name for name in names if name.endswith(PICKLES))
    if unread:
        told = f"not opened: {', '.join(unread[:3])} (a pickle can run code)"
        found[0] = replace(found[0], remarks=(*found[0].remarks, told))
    return found


def _is_gguf(place: Place, name: str) -> bool:
    """By its name; a single file of another name by its first bytes (Ollama's are named by their hashes)."""
    if name.endswith(".gguf") or name != place.chosen or name.endswith((".safetensors", *PICKLES)):
        return name.endswith(".gguf")
    with place.opened(name) as opened:
        return opened.read(4) == b"GGUF"


def _with_its_split(chosen: str, names: Iterable[str]) -> list[str]:
    """The file that was asked for; a shard of a split GGUF stands for all of them."""
    split = SPLIT.fullmatch(chosen)
    if split is None:
        return [chosen]
    return [name for name in names if (other := SPLIT.fullmatch(name)) and other["stem"] == split["stem"]]


def _safetensors(place: Place, folder: str, names: list[str]) -> list[Checkpoint]:
    if not names:
        return []
    chosen, left = _of_the_index(place, folder, names) if place.chosen is None else (names, [])
    headers = []
    for name in chosen:
        with place.opened(name) as opened:
            headers.append(read_safetensors(opened, name, place.files[name]))
    remarks = []
    if left:
        size = sum(place.files[name] for name in left)
        remarks.append(
            f"not counted, for the index does not name them: {', '.join(left[:3])} ({size:,} bytes)"
        )
    metadata = {key: value for header in headers for key, value in header.metadata.items()}
    settings = _settings(place, folder, metadata)
    name = place.name if folder == "." else f"{place.name}/{folder}"
    return [Checkpoint(name, {n: place.files[n] for n in chosen}, tuple(headers), settings, tuple(remarks))]


def _of_the_index(place: Place, folder: str, names: list[str]) -> tuple[list[str], list[str]]:
    """The files that are the model, and those that are not, as transformers decides it."""

    def path(name: str) -> str:
        return name if folder == "." else f"{folder}/{name}"

    if path(SINGLE) in names:
        return [path(SINGLE)], [name for name in names if name != path(SINGLE)]
    if path(INDEX) not in place.files:
        return names, []
    weight_map = _json(place, path(INDEX)).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{place.name}: {path(INDEX)} has no weight_map; the file is damaged: get it again")
    shards = sorted({path(name) for name in weight_map.values()})
    missing = [name for name in shards if name not in place.files or not name.endswith(".safetensors")]
    if missing or not shards:
        raise InputError(
            f"{place.name} lacks {cut(missing[0]) if missing else 'all shards'} ({len(missing)} of"
            f" {len(shards)} shards named in {path(INDEX)} are missing)"
        )
    return shards, [name for name in names if name not in shards]


def _ggufs(place: Place, names: list[str], mmproj: str | None) -> list[Checkpoint]:
    """A model for each GGUF, or for each split; with the mmproj file, if there is one or one is named."""
    splits: dict[str, list[str]] = defaultdict(list)
    for name in names:
        split = SPLIT.fullmatch(name)
        splits[split["stem"] if split else name].append(name)
    models, projectors = [], []
    for stem, files in splits.items():
        headers = []
        for name in files:
            with place.opened(name) as opened:
                headers.append(read_gguf(opened, name, place.files[name]))
        _check_split(place, stem, files, headers)
        model = Checkpoint(
            place.name if place.chosen else f"{place.name}/{files[0]}",
            {name: place.files[name] for name in files},
            tuple(headers),
            Settings(metadata=headers[0].metadata, gguf=True),
        )
        is_projector = headers[0].metadata.get("general.architecture") == "clip"
        (projectors if is_projector else models).append(model)
    return _paired(place, models, projectors, mmproj)


def _check_split(place: Place, stem: str, files: list[str], headers: list[Header]) -> None:
    """InputError when shards of a split are missing: names and headers say how many there are."""
    named = SPLIT.fullmatch(files[0])
    said = [header.metadata.get("split.count") for header in headers]
    count = max(
        [1, int(named["count"]) if named else 1, *(number for number in said if isinstance(number, int))]
    )
    if len(files) != count:
        raise InputError(f"{place.name}: {stem} has {len(files)} of {count} shards; get the others as well")


def _paired(
    place: Place, models: list[Checkpoint], projectors: list[Checkpoint], mmproj: str | None
) -> list[Checkpoint]:
    if mmproj is not None:
        named = [one for one in projectors if PurePosixPath(next(iter(one.files))).name == mmproj]
        if not named:
            there = ", ".join(next(iter(one.files)) for one in projectors) or "none"
            raise InputError(f"{place.name} has no mmproj file {cut(mmproj)}; there: {there}")
        projectors = named
    if not models or not projectors:
        return models or projectors
    if len(projectors) > 1:
        told = f"{len(projectors)} mmproj files, counted alone; --mmproj NAME counts one with its model"
        return [*(replace(model, remarks=(*model.remarks, told)) for model in models), *projectors]
    projector = projectors[0]
    return [
        replace(
            model,
            files={**model.files, **projector.files},
            headers=(*model.headers, *projector.headers),
        )
        for model in models
    ]


def _settings(place: Place, folder: str, metadata: dict[str, Any]) -> Settings:
    def read(name: str) -> dict[str, Any]:
        path = name if folder == "." else f"{folder}/{name}"
        return _json(place, path) if path in place.files else {}

    config = read("config.json")
    nested = config.get("text_config")
    for owner in (config, nested if isinstance(nested, dict) else {}):
        for key in ("quantization_config", "quantization", "compression_config"):
            if isinstance(owner.get(key), dict):
                return Settings(owner[key], config, metadata)
    for name in STAND_INS:
        stand_in = read(name)
        if stand_in:
            inner = stand_in.get("quantization")
            return Settings(inner if isinstance(inner, dict) else stand_in, config, metadata)
    return Settings({}, config, metadata)


def _json(place: Place, name: str) -> dict[str, Any]:
    try:
        content = json.loads(place.small(name))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place.name}: {name} is no valid JSON; the file is damaged: get it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{place.name}: {name} holds no JSON object; the file is damaged: get it again")
    return content


def _nothing(place: Place, names: list[str], pattern: str | None) -> InputError:
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        return InputError(
            f"{place.name} has {cut(pickles[0])}, which is a pickle: it can run code and is never opened;"
            " convert it to safetensors first"
        )
    others = sorted(name for name in names if name.endswith(OTHERS))
    found = f"only {cut(others[0])}" if others else "no such file"
    chosen = "" if pattern is None else f" that match {cut(pattern)}"
    return InputError(f"{place.name} has no weights in safetensors or GGUF{chosen} ({found})")
