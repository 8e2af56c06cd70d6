"""Which files of a model folder hold its weights: decided as transformers decides it, or refused.

config.json names transformers_weights   that file
model.safetensors                        that file, whatever else is there
model.safetensors.index.json             the files that its weight_map names
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bivlm.checkpoint.modules import is_packed
from bivlm.checkpoint.shards import INDEX_NAME, SINGLE_NAME, read_json
from bivlm.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"
_OTHER_KINDS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises InputError when there are none, when one is missing,
    and when an index names anything else than safetensors files of this folder.
    """
    named = _named_by_config(folder)
    single, index = folder / (named or SINGLE_NAME), folder / INDEX_NAME
    if named is not None and named.endswith(".index.json"):
        single, index = folder / SINGLE_NAME, folder / named
    elif named is not None and not single.is_file():
        raise InputError(f"{folder / 'config.json'} names the weights {named}, and that file is not there")
    if single.is_file() and index.name == INDEX_NAME:
        return [single]
    if not index.is_file():
        raise InputError(f"{folder} has no weights in safetensors {_found_instead(folder)}")
    return _named_by_index(index)


def index_of(folder: Path) -> Path | None:
    """The index that belongs to the weights of a folder; None if the weights are a single file, and an index
    of former shards may lie next to it.
    """
    single, index = folder / SINGLE_NAME, folder / INDEX_NAME
    return None if single.is_file() or not index.is_file() else index


def is_plain_name(name: Any) -> bool:
    """Whether `name` is the name of a file in a folder: no path, no device, nothing hidden."""
    return isinstance(name, str) and name[:1] not in ("", ".") and not set(name) & set("/\\:\0")


def check_no_adapter(folder: Path) -> None:
    """InputError for a folder with an adapter: its weights alone are not the model that the user means."""
    if not (folder / ADAPTER_CONFIG).exists():
        return
    if is_packed(read_json(folder / "config.json")):
        raise InputError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}) next to packed weights, into which none can be"
            " merged; move it to a folder of its own, and give that with --adapter"
        )
    raise InputError(
        f"{folder} holds an adapter ({ADAPTER_CONFIG}) next to the weights; merge it first, with `bivlm"
        " quantize --merge-adapter` or peft's merge_and_unload, or take its files out of the folder"
    )


def _named_by_config(folder: Path) -> str | None:
    """The file that the config's own field names, if it has that field."""
    config = folder / "config.json"
    named = read_json(config).get("transformers_weights") if config.is_file() else None
    if named is None:
        return None
    if not is_plain_name(named) or not named.endswith((".safetensors", ".safetensors.index.json")):
        raise InputError(
            f"{config}: transformers_weights is {named!r}; needs the name of a safetensors file, or of its"
            " index, in this folder"
        )
    return named


def _named_by_index(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map; the file is damaged: get it again")
    wrong = [name for name in weight_map.values() if not _is_shard_name(name)]
    if wrong:
        raise InputError(
            f"{index}: weight_map names {str(wrong[0])[:80]!r}; only safetensors files in the same folder are"
            " read"
        )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{index.parent} lacks {missing[0]} ({len(missing)} of {len(names)} shards named in {index.name}"
            " are missing)"
        )
    return [index.parent / name for name in names]


def _is_shard_name(name: Any) -> bool:
    return is_plain_name(name) and name.endswith(".safetensors")


def _found_instead(folder: Path) -> str:
    """What lies in a folder whose weights cannot be read, in brackets, and what to do."""
    variants = sorted(path.name for path in folder.glob("model.*.safetensors*"))
    if variants:
        return f"(only the variant {variants[0]}); rename its files to {SINGLE_NAME} or {INDEX_NAME}"
    if (folder / ADAPTER_CONFIG).exists():
        return "(it is an adapter); copy its files into the folder of its base model, and give that"
    others = sorted(path.name for pattern in _OTHER_KINDS for path in folder.glob(pattern))
    found = f"only {', '.join(others[:3])}" if others else "none"
    return f"({found}); needed is {SINGLE_NAME} or {INDEX_NAME} with its shards"
