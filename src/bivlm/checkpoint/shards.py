"""Reading and writing safetensors files: complete or not at all, the same bytes every time, errors that the
user understands.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bivlm.checkpoint.durable import publish, system_error, writing_name
from bivlm.errors import InputError

if TYPE_CHECKING:  # headers are read without torch
    import torch
    from torch import Tensor

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

DTYPES = {  # of safetensors' headers: torch's names, and bytes
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
ITEM_BYTES = dict(DTYPES.values())  # by torch's names


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that torch calls so."""
    import torch

    return getattr(torch, name)


@dataclass(frozen=True)
class TensorEntry:
    """The place of one tensor: its shard and key, and the name of its dtype and its shape from the shard's
    header.
    """

    shard: Path
    key: str
    dtype_name: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return torch_dtype(self.dtype_name)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype_name]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; InputError if the file does not contain one, or cannot be read."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file: it is a folder, a pipe or a device; get the file again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        cause = str(error).splitlines()[0][:120]
        raise InputError(f"{path} is no valid JSON ({cause}); the file is damaged: get it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; the file is damaged: get it again")
    return content


def to_json(content: Mapping[str, Any]) -> str:
    """A JSON file's text: the same for the same content. Half a surrogate pair, which UTF-8 cannot hold,
    makes the whole text ASCII.
    """
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=1, sort_keys=True) + "\n"
    return text


@contextmanager
def open_shard(path: Path, framework: str = "pt") -> Iterator[safe_open]:
    """An open safetensors file; InputError when it is truncated or its header is damaged. Its tensors are
    those of the framework: torch's, or "np".
    """
    try:
        with safe_open(path, framework=framework) as shard:
            yield shard
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or cut short ({error}); get the file again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise InputError(
            f"{path} does not fit into the memory that this process may have; allow more (ulimit -v)"
        ) from error


def read_entries(paths: Iterable[Path]) -> dict[str, TensorEntry]:
    """Every tensor of some shards by its key, from the headers alone."""
    entries: dict[str, TensorEntry] = {}
    for path in paths:
        with open_shard(path, "np") as shard:
            for key in shard.keys():  # noqa: SIM118 - a safetensors file is no dict
                part = shard.get_slice(key)
                if part.get_dtype() not in DTYPES:
                    raise InputError(
                        f"{path}: tensor {key} has the dtype {part.get_dtype()}, which bivlm does not read;"
                        " convert the model to bfloat16 first"
                    )
                if key in entries:
                    raise InputError(
                        f"the tensor {key} is in {entries[key].shard} and in {path.name}; take the file that"
                        " does not belong to this model out of the folder"
                    )
                entries[key] = TensorEntry(path, key, DTYPES[part.get_dtype()][0], tuple(part.get_shape()))
    return entries


def read_tensors(entries: Iterable[TensorEntry], *, copy: bool = True) -> dict[str, Tensor]:
    """The tensors themselves, by key: copied out of the file, or with `copy` False backed by the file,
    without memory of their own.
    """
    by_shard: dict[Path, list[TensorEntry]] = {}
    for entry in entries:
        by_shard.setdefault(entry.shard, []).append(entry)
    tensors: dict[str, Tensor] = {}
    for path, wanted in by_shard.items():
        with open_shard(path) as shard:
            for entry in wanted:
                tensor = shard.get_tensor(entry.key)
                tensors[entry.key] = tensor.clone() if copy else tensor
    return tensors


def read_arrays(entries: Iterable[TensorEntry], *, raw: bool = False) -> dict[str, Any]:
    """The tensors by key as numpy's arrays, backed by the file; without torch, but for bfloat16, which numpy
    does not have: that is a tensor. With `raw` all are bytes (n,) uint8.
    """
    by_shard: dict[Path, list[TensorEntry]] = {}
    for entry in entries:
        by_shard.setdefault(entry.shard, []).append(entry)
    arrays: dict[str, Any] = {}
    for path, wanted in by_shard.items():
        with open_shard(path, "np") as shard:
            content, starts = np.asarray(np.memmap(path, mode="r")), _starts(shard, path)
        for entry in wanted:
            own = content[starts[entry.key] :][: entry.nbytes]
            if not raw and entry.dtype_name == "bfloat16":
                arrays |= read_tensors([entry], copy=False)
            else:
                arrays[entry.key] = own if raw else own.view(entry.dtype_name).reshape(entry.shape)
    return arrays


def _starts(shard: safe_open, path: Path) -> dict[str, int]:
    """Where the bytes of each tensor begin in an open file. They lie one after the other, after the header
    and its length: safetensors refuses any other file.
    """
    with path.open("rb") as file:
        place = 8 + int.from_bytes(file.read(8), "little")
    starts: dict[str, int] = {}
    for key in shard.offset_keys():
        part = shard.get_slice(key)
        starts[key] = place
        place += prod(part.get_shape()) * DTYPES[part.get_dtype()][1]
    return starts


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; checked in pieces, so a large tensor is not copied."""
    return not tensor.is_floating_point() or all(
        bool(piece.isfinite().all()) for piece in tensor.reshape(-1).split(1 << 24)
    )


def checksum(tensor: Tensor) -> str:
    """CRC-32 of a tensor's bytes, as eight hexadecimal digits."""
    import torch

    return array_checksum(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def array_checksum(content: np.ndarray) -> str:
    """CRC-32 of bytes (n,) uint8, as eight hexadecimal digits."""
    return f"{zlib.crc32(content.data) if content.size else 0:08x}"


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that is either absent or complete, readable by everyone, with the same bytes
    for the same tensors.

    The header has only the entry `format`: safetensors writes further entries in an order that changes from
    process to process. Raises OSError with the system's number if the disk is full or refuses; an older file
    then stays.
    """
    from safetensors.torch import save_file

    temporary = writing_name(path)
    try:
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()},
            temporary,
            metadata={"format": "pt"},
        )
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise system_error(str(error), path) from error
    temporary.chmod(0o644)  # safetensors writes 0600, which a server under another user cannot read
    publish(temporary, path)
