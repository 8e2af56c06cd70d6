"""An adapter's folder.

    adapter_config.json             as peft writes it; written last, so a folder with it is complete
    adapter_model.safetensors       factors in float16 or float32, by peft's names: peft reads such a folder
    adapter_bivlm.safetensors       or factors in eight bits (rounding.py): peft finds no weights and refuses
    bivlm_adapter.json              the packed model that it was trained on, how, its bits, checksums

Every file is written under a temporary name, brought to the disk, and renamed. Nothing but safetensors and
JSON is read. An adapter without bivlm_adapter.json was trained elsewhere: it is used as it is, and the log
says so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bivlm import __version__
from bivlm.adapters.identity import BaseIdentity, base_identity, read_identity
from bivlm.adapters.lora import Factors, linears_of
from bivlm.adapters.rounding import WIDTHS, factors_from, stored_tensors
from bivlm.checkpoint.adapter import (
    ADAPTER_WEIGHTS,
    PACKED_RECORD,
    PREFIX,
    read_config,
    read_pairs,
    scale_of,
    weight_name,
)
from bivlm.checkpoint.durable import sync_folder, write_text
from bivlm.checkpoint.guards import check_files
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.place import JOB_FOLDER
from bivlm.checkpoint.seal import file_checksum, text_checksum
from bivlm.checkpoint.shards import (
    TensorEntry,
    checksum,
    is_finite,
    read_entries,
    read_json,
    read_tensors,
    to_json,
    write_shard,
)
from bivlm.checkpoint.weight_files import ADAPTER_CONFIG
from bivlm.errors import InputError, cut

logger = logging.getLogger(__name__)

EIGHT_BIT_WEIGHTS = "adapter_bivlm.safetensors"
FILES = (ADAPTER_WEIGHTS, EIGHT_BIT_WEIGHTS, PACKED_RECORD, ADAPTER_CONFIG)
FORMAT_VERSION = 1
_EIGHT_BIT_KEY = re.compile(r"(.+)\.(lora_[AB]\.(?:codes|scales))")
_EIGHT_BIT_PARTS = ("lora_A.codes", "lora_A.scales", "lora_B.codes", "lora_B.scales")


@dataclass(frozen=True)
class Record:
    """What bivlm_adapter.json says. `details` are for people: settings, losses, bits."""

    base: BaseIdentity
    bits: int
    job: str
    checksums: Mapping[str, str]
    config_checksum: str
    details: Mapping[str, Any]


def write_adapter(folder: Path, adapter: Mapping[str, Factors], record: Record) -> None:
    """Write an adapter's folder; `record` without its checksums, which are made here. The folder is complete
    when `adapter_config.json` is there, and on the disk when this returns.
    """
    prefix = "" if record.bits == 8 else PREFIX
    tensors = {
        f"{prefix}{name}.{part}": tensor
        for name, factors in adapter.items()
        for part, tensor in stored_tensors(factors, record.bits).items()
    }
    broken = next((key for key, tensor in tensors.items() if not is_finite(tensor)), None)
    if broken is not None:
        raise InputError(f"{broken} is not finite in {record.bits} bits; store the adapter with more bits")
    write_shard(folder / (EIGHT_BIT_WEIGHTS if record.bits == 8 else ADAPTER_WEIGHTS), tensors)
    config = to_json(_peft_config(adapter, record.base))
    content = {
        "format_version": FORMAT_VERSION,
        "bivlm_version": __version__,
        "base": record.base.to_dict(),
        "bits": record.bits,
        "job": record.job,
        "crc32": {key: checksum(tensor) for key, tensor in tensors.items()},
        "config_crc32": text_checksum(config),
        **record.details,
    }
    write_text(folder / PACKED_RECORD, to_json(content))
    sync_folder(folder)  # the adapter is on the disk before the file that makes the folder complete
    write_text(folder / ADAPTER_CONFIG, config)
    sync_folder(folder)


def _peft_config(adapter: Mapping[str, Factors], base: BaseIdentity) -> dict[str, Any]:
    """The settings by which peft builds the same product."""
    largest = max(factors.rank for factors in adapter.values())
    scale = max(factors.scale for factors in adapter.values())
    ranks = {name: factors.rank for name, factors in adapter.items() if factors.rank != largest}
    alphas = {
        name: factors.scale * factors.rank
        for name, factors in adapter.items()
        if factors.scale * factors.rank != scale * largest
    }
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base.name,
        "task_type": None,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": scale * largest,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": list(adapter),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
    }


def read_adapter(adapter: str | Path, model: nn.Module, base: Path) -> dict[str, Factors]:
    """The factors of an adapter's folder or hub id, by the names of the linears of `model`, which was loaded
    from the folder `base`.

    Raises InputError for a folder that is missing, unfinished or damaged, for pickles, values that are not
    finite, shapes that do not fit, and an adapter of another packed model.
    """
    identity = base_identity(base)
    folder = resolve_model(adapter)
    check_complete(folder)
    shapes = {
        f"{name}.weight": (linear.out_features, linear.in_features)
        for name, linear in linears_of(model).items()
    }
    record = read_record(folder)
    if record is None:
        _check_no_pickle(folder)
        logger.warning(
            "%s was not trained on a packed model: it is used next to the packed weights as it is", folder
        )
        return _read_floats(folder, shapes)
    if record.base.modules != identity.modules:
        raise InputError(
            f"{folder} was trained for {record.base}, and {base} is {identity}; give the model that it was"
            " trained for, or train an adapter for this one with `bivlm adapt`"
        )
    verify_adapter(folder, record)
    return _read_eight_bits(folder, shapes) if record.bits == 8 else _read_floats(folder, shapes)


def check_complete(folder: Path) -> None:
    """InputError for what is no complete adapter folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the adapter's folder, which holds {ADAPTER_CONFIG}")
    check_files(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        return
    if (folder / JOB_FOLDER).is_dir():
        raise InputError(f"{folder} is unfinished work; run its `bivlm adapt` command again to finish it")
    what = f"has no {ADAPTER_CONFIG}" if any(folder.iterdir()) else "is empty"
    raise InputError(f"{folder} {what}; give the folder of an adapter")


def read_record(folder: Path) -> Record | None:
    """What bivlm_adapter.json of a folder says; None without one. InputError if it is damaged, or of a later
    format.
    """
    path = folder / PACKED_RECORD
    if not path.exists():
        return None
    content = read_json(path)
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, and this bivlm reads up to {FORMAT_VERSION}: pip install"
            " -U bivlm"
        )
    sums, bits, job = content.get("crc32"), content.get("bits"), content.get("job")
    config = content.get("config_crc32")
    if (
        type(version) is not int
        or not isinstance(sums, Mapping)
        or not all(isinstance(one, str) for one in (job, config, *sums.values()))
        or type(bits) is not int
        or bits not in WIDTHS
    ):
        raise InputError(f"{path} does not describe an adapter; the file is damaged: get it again")
    try:
        base = read_identity(content.get("base"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    known = {"format_version", "bivlm_version", "base", "bits", "job", "crc32", "config_crc32"}
    details = {name: value for name, value in content.items() if name not in known}
    return Record(base, bits, str(job), dict(sums), str(config), details)


def _check_no_pickle(folder: Path) -> None:
    if (folder / ADAPTER_WEIGHTS).is_file():
        return
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    if pickles:
        raise InputError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code and is not read; save"
            " the adapter again with peft's save_pretrained, which writes safetensors"
        )
    raise InputError(f"{folder} lacks {ADAPTER_WEIGHTS}; get the folder again")


def verify_adapter(folder: Path, record: Record) -> None:
    """Compare an adapter's settings and tensors with the checksums of its record. InputError that names what
    differs.
    """
    if file_checksum(folder / ADAPTER_CONFIG) != record.config_checksum:
        raise InputError(f"{folder / ADAPTER_CONFIG} has changed since it was written; get the folder again")
    path = folder / (EIGHT_BIT_WEIGHTS if record.bits == 8 else ADAPTER_WEIGHTS)
    if not path.is_file():
        raise InputError(f"{folder} lacks {path.name}; get the folder again")
    entries = read_entries([path])
    odd = sorted({*entries} ^ {*record.checksums})
    if odd:
        raise InputError(
            f"{path} and {PACKED_RECORD} disagree about the tensor {cut(odd[0], 200)}; get both again"
        )
    for key, tensor in read_tensors(entries.values()).items():
        if checksum(tensor) != record.checksums[key]:
            raise InputError(f"{path}: the bytes of tensor {key} have changed since they were written")


def _read_floats(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Factors]:
    path = folder / ADAPTER_WEIGHTS
    adapter = {}
    for weight, pair in read_pairs(folder / ADAPTER_CONFIG, path, shapes).items():
        read = read_tensors([pair.a, pair.b])
        tensors = {"lora_A.weight": read[pair.a.key], "lora_B.weight": read[pair.b.key]}
        _check_finite(path, {pair.a.key: read[pair.a.key], pair.b.key: read[pair.b.key]})
        adapter[weight.removesuffix(".weight")] = factors_from(tensors, pair.scale)
    return _not_empty(path, adapter)


def _read_eight_bits(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Factors]:
    path = folder / EIGHT_BIT_WEIGHTS
    config = read_config(folder / ADAPTER_CONFIG)
    parts: dict[str, dict[str, TensorEntry]] = {}
    for key, entry in read_entries([path]).items():
        found = _EIGHT_BIT_KEY.fullmatch(key)
        if found is None:
            raise InputError(
                f"{path}: the tensor {cut(key, 200)} is no part of an adapter; get the folder again"
            )
        parts.setdefault(found.group(1), {})[found.group(2)] = entry
    adapter = {}
    for name, entries in parts.items():
        weight = weight_name(name, shapes, path)
        _check_eight_bits(path, name, entries, shapes[weight])
        read = read_tensors(entries.values())
        tensors = {part: read[entry.key] for part, entry in entries.items()}
        _check_finite(path, read)
        scale = scale_of(path, config, name, entries["lora_A.codes"].shape[0])
        adapter[weight.removesuffix(".weight")] = factors_from(tensors, scale)
    return _not_empty(path, adapter)


def _check_eight_bits(
    path: Path, name: str, entries: Mapping[str, TensorEntry], shape: tuple[int, int]
) -> None:
    missing = [part for part in _EIGHT_BIT_PARTS if part not in entries]
    if missing:
        raise InputError(f"{path}: {name} lacks {missing[0]}; the file is incomplete: get it again")
    found = [(str(entries[part].dtype), list(entries[part].shape)) for part in _EIGHT_BIT_PARTS]
    rank = (found[0][1] or [0])[0]
    needed = [
        ("torch.int8", [rank, shape[1]]),
        ("torch.float16", [rank]),
        ("torch.int8", [rank, shape[0]]),
        ("torch.float16", [rank]),
    ]
    if rank < 1 or found != needed:
        raise InputError(
            f"{path}: the factors of {name} are {found[0][1]} and {found[2][1]}, and the weight is"
            f" {list(shape)}; the adapter is of another model"
        )


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = next((key for key, tensor in tensors.items() if not is_finite(tensor)), None)
    if broken is not None:
        raise InputError(f"{path}: {broken} holds values that are NaN or infinite; get the adapter again")


def _not_empty(path: Path, adapter: dict[str, Factors]) -> dict[str, Factors]:
    if not adapter:
        raise InputError(f"{path} holds no factors; get the adapter again")
    return adapter
