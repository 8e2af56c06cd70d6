"""From a seed to a hostile packed weight: one of the corpus, changed once or a few times."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bivlm.formats import FORMATS, PackedTensor
from reliability.corpus import corpus

INTEGERS = [0, 1, -1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1 << 15]
INTEGERS += [1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, 1 << 60, 1 << 62, (1 << 63) - 1, 1 << 63]
INTEGERS += [1 << 64, -(1 << 63), 10**30]
WORDS = ["", "x", "float32", "float16", "uint8", "int8", "none", "middle", "code", "free", "levels", "values"]
EVIL = [
    *INTEGERS,
    *WORDS,
    0.5,
    1.0,
    -0.0,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    [],
    [1],
    {},
    {"a": 1},
]
HALVES = [0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x8000, 0x0000, 0x3C00, 0xBC00]
FLOATS = [float("nan"), float("inf"), float("-inf"), -1.0, -0.0, 0.0, 1e38, -1e38, 3e38, 1e-40, 1e-45]
DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@dataclass(frozen=True)
class Mutant:
    """A changed weight: where it comes from, and what was done to it."""

    seed: int
    origin: str
    changes: tuple[str, ...]
    packed: PackedTensor


Change = Callable[[random.Random, PackedTensor], tuple[PackedTensor, str]]


@cache
def _names() -> dict[str, list[str]]:
    """The corpus by format, so that every format has its share of the mutants."""
    return {
        format_: [name for name, packed in corpus().items() if packed.format == format_]
        for format_ in FORMATS
    }


def mutant(seed: int) -> Mutant:
    """The mutant of a seed: always the same."""
    draw = random.Random(seed)
    origin = draw.choice(_names()[draw.choice(sorted(_names()))])
    packed, changes = corpus()[origin], []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        (change,) = draw.choices(list(CHANGES), list(CHANGES.values()))
        if isinstance(packed.tensors, dict) and packed.tensors:
            packed, what = change(draw, packed)
            changes.append(f"{change.__name__.strip('_')}: {what}")
    return Mutant(seed, origin, tuple(changes), packed)


def with_tensor(packed: PackedTensor, name: str, tensor: Any) -> PackedTensor:
    return replace(packed, tensors={**packed.tensors, name: tensor})


def _tensor(draw: random.Random, packed: PackedTensor) -> tuple[str, Any]:
    name = draw.choice(list(packed.tensors))
    return name, packed.tensors[name]


def _plain(tensor: Any) -> bool:
    """Whether a value is a tensor with bytes of its own."""
    return isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta


def _raw(tensor: Tensor) -> Tensor:
    """The bytes of a new copy."""
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


def _bytes(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    name, tensor = _tensor(draw, packed)
    if not _plain(tensor) or not tensor.numel():
        return packed, "nothing"
    raw, kind = _raw(tensor), draw.choice(("some", "some", "some", "run", "shuffle"))
    if kind == "some":
        for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
            place = draw.randrange(len(raw))
            raw[place] = draw.choice((0, 255, draw.randrange(256), int(raw[place]) ^ 1 << draw.randrange(8)))
    elif kind == "run":
        start = draw.randrange(len(raw))
        raw[start : start + draw.choice((1, 8, 64, 1 << 20))] = draw.choice((0, 255, 0x7C, 0x55))
    else:
        raw = raw[torch.tensor(draw.sample(range(len(raw)), len(raw)))]
    return with_tensor(packed, name, raw.view(tensor.dtype).view(tensor.shape)), f"{name}, {kind}"


def _numbers(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    """Special floats, in a tensor of floats or in the scales of blocks."""
    floats = {
        name: tensor
        for name, tensor in packed.tensors.items()
        if _plain(tensor)
        and (tensor.dtype in (torch.float16, torch.float32) or name == "blocks")
        and tensor.numel()
    }
    if not floats:
        return packed, "nothing"
    name = draw.choice(list(floats))
    tensor = floats[name]
    raw = _raw(tensor)
    for _ in range(draw.choice((1, 2, 8))):
        if tensor.dtype == torch.float32:
            value, step = struct.pack("f", draw.choice(FLOATS)), 4
        else:
            value, step = struct.pack("H", draw.choice(HALVES)), 2
        if name == "blocks" and tensor.dim() == 3 and tensor.shape[-1] > 2:
            step = tensor.shape[-1] * tensor.element_size()
        place = draw.randrange(max(1, len(raw) // step)) * step
        raw[place : place + len(value)] = torch.tensor(list(value), dtype=torch.uint8)[: len(raw) - place]
    return with_tensor(packed, name, raw.view(tensor.dtype).view(tensor.shape)), name


def _size(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    name, tensor = _tensor(draw, packed)
    if not _plain(tensor) or not tensor.dim():
        return packed, "nothing"
    dim = draw.randrange(tensor.dim())
    size = tensor.shape[dim]
    if draw.random() < 0.6:
        kept = draw.choice((0, max(0, size - 1), size // 2))
        return with_tensor(packed, name, tensor.narrow(dim, 0, kept).clone()), f"{name} cut to {kept}"
    more = tensor.narrow(dim, 0, min(size, draw.choice((1, 1, 2, 100))))
    return with_tensor(packed, name, torch.cat([tensor, more], dim)), f"{name} longer"


def _dtype(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    name, tensor = _tensor(draw, packed)
    if not _plain(tensor):
        return packed, "nothing"
    dtype = draw.choice(DTYPES)
    if tensor.dtype == dtype or tensor.is_complex():
        return packed, "nothing"
    fits = (
        tensor.dim()
        and tensor.is_contiguous()
        and tensor.shape[-1] * tensor.element_size() % dtype.itemsize == 0
    )
    if draw.random() < 0.5 and fits:
        again = tensor.clone(memory_format=torch.contiguous_format)
        return with_tensor(packed, name, again.view(dtype)), f"{name} viewed as {dtype}"
    return with_tensor(packed, name, tensor.to(dtype)), f"{name} as {dtype}"


def _layout(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    name, tensor = _tensor(draw, packed)
    if not _plain(tensor):
        return packed, "nothing"
    layouts: dict[str, Callable[[], Any]] = {
        "flat": lambda: tensor.reshape(-1),
        "a dimension more": lambda: tensor[None],
        "a number": lambda: tensor.reshape(-1)[0] if tensor.numel() else tensor,
        "expanded": lambda: tensor.reshape(-1)[:1].expand(tensor.shape) if tensor.numel() else tensor,
        "transposed": lambda: tensor.transpose(0, -1) if tensor.dim() > 1 else tensor,
        "transposed in memory": lambda: (
            tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor
        ),
        "strided": lambda: torch.stack([tensor, tensor], -1)[..., 0],
        "empty": lambda: tensor.new_empty(0),
        "no rows": lambda: tensor.new_empty(0, *tensor.shape[1:]),
        "zeros": lambda: torch.zeros_like(tensor),
        "at an odd address": lambda: (
            tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)
        ),
        "on meta": lambda: tensor.to("meta"),
        "sparse": lambda: tensor.to_sparse(),
        "a list": lambda: tensor.tolist(),
        "nothing": lambda: None,
    }
    kind = draw.choice(list(layouts))
    return with_tensor(packed, name, layouts[kind]()), f"{name} {kind}"


def _names_of_tensors(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    tensors, kind = dict(packed.tensors), draw.choice(("delete", "delete", "add", "swap", "swap", "rename"))
    one, other = draw.choice(list(tensors)), draw.choice(list(tensors))
    if kind == "delete":
        del tensors[one]
    elif kind == "add":
        tensors[
            draw.choice(("extra", "table", "scale_unit", "tail_low", "tail_values", "partition", "blocks"))
        ] = torch.zeros(3)
    elif kind == "swap":
        tensors[one], tensors[other] = tensors[other], tensors[one]
    else:
        tensors[draw.choice(("", "weight", other))] = tensors.pop(one)
    return replace(packed, tensors=tensors), f"{kind} {one} {other}"


def _settings(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    if not isinstance(packed.settings, dict) or not packed.settings:
        return packed, "nothing"
    settings: dict[Any, Any] = dict(packed.settings)
    name, kind = draw.choice(list(settings)), draw.choice(("evil", "evil", "evil", "near", "near", "other"))
    if kind == "evil":
        settings[name] = draw.choice(EVIL)
    elif kind == "near" and type(settings[name]) is int:
        settings[name] += draw.choice((-1, 1, 8, -8))
    elif kind == "near" and type(settings[name]) is bool:
        settings[name] = not settings[name]
    elif kind == "near":
        settings[name] = draw.choice(WORDS)
    else:
        what = draw.choice(("delete", "add", "number", "list", "none", "empty"))
        if what == "delete":
            del settings[name]
        elif what in ("add", "number"):
            settings["extra" if what == "add" else 7] = draw.choice(EVIL)
        else:
            whole: Any = {"list": list(settings), "none": None, "empty": {}}[what]
            return replace(packed, settings=whole), what
        return replace(packed, settings=settings), f"{what} {name}"
    return replace(packed, settings=settings), f"{name} = {settings[name]!r}"[:60]


def _shape(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    if not isinstance(packed.shape, tuple) or list(map(type, packed.shape)) != [int, int]:
        return packed, "nothing"
    rows, columns = packed.shape
    shape: Any = draw.choice(
        (
            (rows, draw.choice(INTEGERS)),
            (draw.choice(INTEGERS), columns),
            (draw.choice(INTEGERS), draw.choice(INTEGERS)),
            (columns, rows),
            (rows + draw.choice((-1, 1)), columns),
            (rows, columns + draw.choice((-1, 1, 8, -8))),
            (rows, draw.choice(EVIL)),
            (rows,),
            (1, rows, columns),
            (),
            [rows, columns],
            draw.choice(EVIL),
        )
    )
    return replace(packed, shape=shape), f"{shape!r}"[:60]


def _format(draw: random.Random, packed: PackedTensor) -> tuple[PackedTensor, str]:
    format_: Any = draw.choice([*FORMATS, *EVIL])
    return replace(packed, format=format_), f"{format_!r}"[:60]


CHANGES: dict[Change, float] = {
    _bytes: 34,
    _numbers: 14,
    _settings: 18,
    _shape: 7,
    _layout: 8,
    _size: 6,
    _dtype: 4,
    _names_of_tensors: 6,
    _format: 2,
}
