"""A plan becomes a GGUF file, one tensor after the other: memory holds the largest one."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bivlm.errors import InputError
from bivlm.exporting.plan import Plan, Planned, Value
from bivlm.exporting.stored import FULL, encode, exact_type, type_that_fits
from bivlm.exporting.weights import FolderWeights


@dataclass(frozen=True)
class Typed:
    """A planned tensor with its type."""

    planned: Planned
    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its bytes in the file, without padding."""
        import gguf

        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.kind]]
        return math.prod(self.shape) // block * size


def with_types(plan: Plan, weights: FolderWeights, kind: str) -> list[Typed]:
    """The tensors of a plan with their types: vectors, convolutions and what asks for it in float32; packed
    codes exactly where a type holds them; everything else as `kind`.
    """
    return [_typed(planned, weights, kind) for planned in plan.tensors]


def _typed(planned: Planned, weights: FolderWeights, kind: str) -> Typed:
    shape = planned.shape_in(weights)
    if planned.full or planned.value is not None or len(shape) != 2:
        return Typed(planned, FULL, shape)
    packed = weights.packed(planned.source) if planned.change is None else None
    exact = None if packed is None else exact_type(packed)
    return Typed(planned, exact or type_that_fits(kind, shape[-1]), shape)


def write(
    path: Path,
    plan: Plan,
    tensors: list[Typed],
    weights: FolderWeights,
    written: Callable[[str], None] = lambda name: None,
) -> None:
    """Write a plan's file, tensor by tensor; `written` is told the name of each. InputError for a weight that
    its type cannot hold, OSError as the system raises it.
    """
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, plan.architecture)
    try:
        for key, value in plan.metadata.items():
            _put(writer, key, value)
        for one in tensors:
            kind: Any = gguf.GGMLQuantizationType[one.kind]
            dtype: Any = np.dtype(np.float32)  # with the type given, only the shape matters
            writer.add_tensor_info(one.planned.name, one.shape, dtype, one.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in tensors:
            writer.write_tensor_data(_content(one, weights))
            written(one.planned.name)
    except OSError as error:
        if error.errno is not None:
            raise
        raise _cause(path) from error  # numpy says only that not all could be written
    finally:
        writer.close()


def _cause(path: Path) -> OSError:
    """Why a file cannot grow, as the system says it when one more write is tried."""
    try:
        with path.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        return OSError(error.errno, error.strerror, str(path))
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _content(one: Typed, weights: FolderWeights) -> Any:
    """The bytes of a tensor in its type."""
    values = one.planned.read(weights)
    assert tuple(values.shape) == one.shape, (one.planned.name, values.shape, one.shape)
    try:
        return encode(values, one.kind)
    except ValueError as error:
        raise InputError(
            f"{weights.folder}: {one.planned.source} cannot be stored as {one.kind} ({error}); choose --type"
            " BF16"
        ) from error


def _put(writer: Any, key: str, value: Value) -> None:
    """Add a pair of the metadata, in the kind that llama.cpp reads for the value's own."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
