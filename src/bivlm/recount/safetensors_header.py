"""The header of a safetensors file, without its data: eight bytes of length, then JSON.

The library reads headers of local files only, and stops at a dtype that it does not know; here a file on the
hub is read in the same way, and an unknown dtype still has its bytes.
Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, BinaryIO

from bivlm.errors import InputError, cut
from bivlm.recount.stored import HEADER_LIMIT, Header, StoredTensor

BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32},
    **{"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}


def read_safetensors(file: BinaryIO, name: str, size: int) -> Header:
    """The header of an open file of `size` bytes. Raises InputError for one that is cut short, longer than
    the file, no JSON, or whose tensors overlap, leave gaps, or have other bytes than dtype and shape say.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise InputError(
            f"{name} is damaged or cut short: its header would have {length:,} bytes, the file has {size:,};"
            " get the file again"
        )
    if length > HEADER_LIMIT:
        raise InputError(
            f"{name} has a header of {length:,} bytes; at most {HEADER_LIMIT:,} are read, as safetensors does"
        )
    content = _parsed(file.read(length), name, length)
    metadata = content.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise _damaged(name, "__metadata__ is no object")
    tensors, spans = {}, []
    for key, entry in content.items():
        tensor, span = _tensor(key, entry, name)
        tensors[key] = tensor
        spans.append((*span, key))
    _check_spans(sorted(spans), size - 8 - length, name)
    return Header(name, tensors, metadata)


def _parsed(text: bytes, name: str, length: int) -> dict[str, Any]:
    if len(text) < length:
        raise _damaged(name, f"it ends inside its header of {length:,} bytes")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"the header is no JSON ({cut(str(error))})") from error
    if not isinstance(content, dict):
        raise _damaged(name, "the header is no JSON object")
    return content


def _tensor(key: str, entry: Any, name: str) -> tuple[StoredTensor, tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(name, f"tensor {cut(key)} has no dtype, shape and data_offsets") from error
    if not whole or not isinstance(dtype, str) or end < begin:
        raise _damaged(name, f"tensor {cut(key)} has an impossible dtype, shape or place")
    bits = BITS.get(dtype)
    if bits is not None and (end - begin) * 8 != prod(shape) * bits:
        said = (
            f"{end - begin:,} bytes, and {dtype} of the shape {list(shape)} has {prod(shape) * bits / 8:,g}"
        )
        raise _damaged(name, f"tensor {cut(key)} has {said}")
    return StoredTensor(key, dtype, shape, end - begin, name), (begin, end)


def _check_spans(spans: list[tuple[int, int, str]], room: int, name: str) -> None:
    """Whether the tensors lie one after the other and fill the file, as the format demands."""
    at, before = 0, "the header"
    for begin, end, key in spans:
        if begin < at:
            raise _damaged(name, f"the tensors {cut(before)} and {cut(key)} overlap")
        if begin > at:
            raise _damaged(name, f"{begin - at:,} bytes before tensor {cut(key)} belong to no tensor")
        at, before = end, key
    if at != room:
        raise _damaged(name, f"its tensors have {at:,} bytes, and after the header there are {room:,}")


def _damaged(name: str, why: str) -> InputError:
    return InputError(f"{name} is damaged or cut short ({why}); get the file again")
