"""A language model as a GGUF file and back: what llama.cpp's quantizers read and write.

    Hugging Face folder ─ write_gguf ─► float32 GGUF ─ llama-quantize ─► GGUF ─ stored_tensors ─► types, bytes
        ─ ik_llama.Library.dequantize ─► the same model's weights in float32

The files have the model's sizes and tensors, and no tokenizer: they are asked in token ids. bivlm's exporter
writes them; needs the package gguf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.exporting.text import KINDS, language_plan, rows_in_file
from bivlm.exporting.weights import FolderWeights
from bivlm.exporting.writer import with_types, write

ALIGNMENT = 32
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9  # the other kinds of a value


@dataclass(frozen=True)
class Stored:
    """A tensor of a GGUF file: ggml's number of its type, its shape (rows, columns), and where its bytes
    are.
    """

    kind: int
    shape: tuple[int, ...]
    start: int
    nbytes: int


def write_gguf(source: SourceModel, path: Path) -> dict[str, str]:
    """Write the model in float32; the names of its tensors there, by their names here. InputError for an
    architecture that has no exporter.
    """
    weights = FolderWeights(source.folder)
    plan = language_plan(weights)
    plan = replace(plan, metadata={**plan.metadata, "tokenizer.ggml.model": "no_vocab"})
    write(path, plan, with_types(plan, weights, "F32"), weights)
    return {tensor.source: tensor.name for tensor in plan.tensors if tensor.source}


def interleaved(tensor: Tensor, name: str, config: Any, *, back: bool = False) -> Tensor:
    """The rows of a query or key projection in the order of ggml's Llama, which rotates neighbours; `back`
    undoes it. Others as they are.
    """
    rows = rows_in_file(name, config) if KINDS[config.model_type].neighbours else None
    return tensor if rows is None else tensor[rows.argsort() if back else rows]


def stored_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a GGUF file, by name, whatever their types."""
    with path.open("rb") as file:
        magic, version, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version not in (2, 3):
            raise InputError(f"{path} is no GGUF file of version 2 or 3")
        for _ in range(pairs):
            _text(file)
            _skip(file, _number(file, "I"))
        listed = list(_listed(file, tensors))
        first = -(-file.tell() // ALIGNMENT) * ALIGNMENT
    starts = sorted(first + offset for *_, offset in listed)
    ends = dict(zip(starts, [*starts[1:], path.stat().st_size], strict=True))
    return {
        name: Stored(kind, shape, first + offset, ends[first + offset] - first - offset)
        for name, shape, kind, offset in listed
    }


def _listed(file: BinaryIO, count: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Name, shape, type and offset of each tensor."""
    for _ in range(count):
        name = _text(file)
        shape = tuple(_number(file, "Q") for _ in range(_number(file, "I")))
        yield name, shape[::-1], _number(file, "I"), _number(file, "Q")


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "Q")).decode()


def _skip(file: BinaryIO, kind: int) -> None:
    """Pass over a value."""
    if kind == TEXT:
        _text(file)
    elif kind == ARRAY:
        inner, count = _number(file, "I"), _number(file, "Q")
        for _ in range(count):
            _skip(file, inner)
    else:
        _number(file, NUMBERS[kind])


def write_importance(path: Path, means: Mapping[str, Tensor], windows: int) -> None:
    """The means of squared inputs, by GGUF's names of the weights, as llama-quantize reads them."""
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(means)))
        for name, mean in means.items():
            file.write(struct.pack("<i", len(name)) + name.encode())
            file.write(struct.pack("<ii", windows, mean.numel()))
            file.write((mean.float() * windows).numpy().astype(np.float32).tobytes())


@torch.inference_mode()
def mean_squares(model: torch.nn.Module, windows: Tensor) -> dict[str, Tensor]:
    """The mean of the squared inputs of every linear of the blocks, over all tokens of the windows (n, t), by
    the name of its weight.
    """
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            squares = inputs[0].double().flatten(0, -2).square().sum(0)
            sums[name] = sums.get(name, 0) + squares

        return hook

    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers." in n}
    handles = [module.register_forward_hook(watch(f"{name}.weight")) for name, module in linears.items()]
    for window in windows:
        model(input_ids=window[None], use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return {name: total / windows.numel() for name, total in sums.items()}


def names_said(counts: Mapping[str, int]) -> str:
    """ "IQ2_XXS 30, IQ4_NL 180" of how many tensors have which type."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))
