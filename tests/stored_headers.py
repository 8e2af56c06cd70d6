"""Small checkpoints that are all header: safetensors files of zeros with given dtypes and shapes, and GGUF
files written by ggml's own package.

    write_safetensors(path, {"a.weight": ("F16", (2, 3))}, {"a.weight": "said of it"})
    write_gguf(path, "llama", {"blk.0.attn_q.weight": ("Q2_K", (4, 256))}, split_count=1)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1}
BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "BOOL": 1}
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape of each tensor, by name


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return BYTES[dtype] * prod(shape)


def write_safetensors(path: Path, tensors: Shapes, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file whose tensors are zeros."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return write_header(path, header, at)


def write_header(path: Path, header: Any, data: int) -> Path:
    """A safetensors file of this header and so many bytes of data, right or wrong."""
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def write_folder(folder: Path, tensors: Shapes, quantization: Any = None, **config: Any) -> Path:
    """A model folder: one safetensors file, and config.json."""
    write_safetensors(folder / "model.safetensors", tensors)
    more = {} if quantization is None else {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps({"model_type": "made", **config, **more}))
    return folder


def write_gguf(path: Path, architecture: str, tensors: Shapes, **pairs: Any) -> Path:
    """A GGUF file of zeros by the package gguf. An underscore in the name of a pair stands for a dot."""
    import gguf
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in pairs.items():
        key = name.replace("_", ".", 1)
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    for name, (kind, shape) in tensors.items():
        number = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[number]
        data = np.zeros((*shape[:-1], shape[-1] // block * size), np.uint8)
        writer.add_tensor(name, data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
