"""A weight in `planes` for the native library. Its planes, numbers and the upper bits of its tail's codes are
read where they lie.

Made in addition are the column scales of every column and, for a tail, the steps from entry to entry: a byte
for each, and 16 for each row.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.plane_checks import columns_of_scales, is_plain, scale_count
from bivlm.formats.encoding.positions import unpack_positions
from bivlm.native.build import Build, NativeWeight
from bivlm.native.structs import KIND_PLANE, PLANES_LEAP, PLANES_WORD, PlanesStruct

# The settings of a weight that has nothing but signs and scales
_ONLY_SIGNS = {"parts": 1, "salient_columns": 0, "means": "none", "column_scales": False, "tail": 0}


def planes(packed: PackedTensor) -> NativeWeight:
    """A weight in `planes`, after the format's checks."""
    settings: dict[str, Any] = dict(packed.settings)
    tensors, group_size = packed.tensors, settings["group_size"]
    if is_plain(settings, packed.shape[1]):
        blocks = tensors["blocks"]
        build = Build(KIND_PLANE, 1, packed.shape, group_size, blocks.flatten(1))
        build.struct.group_bytes = blocks.shape[2]
        return build.done(packed)
    build = Build(KIND_PLANE, 1, packed.shape, group_size, tensors["signs"], 2.0 ** settings["exponent"])
    kinds = scale_count(settings["parts"], settings["salient_parts"])
    build.struct.scales = build.numbers("scale", tensors["scales"], tensors.get("scale_unit"), kinds)
    if any(settings[name] != plain for name, plain in _ONLY_SIGNS.items()):
        build.struct.planes = ctypes.pointer(_additions(build, packed, settings))
    return build.done(packed)


def _additions(build: Build, packed: PackedTensor, settings: Mapping[str, Any]) -> PlanesStruct:
    """What the weight has besides signs and scales."""
    (rows, columns), tensors = packed.shape, packed.tensors
    parts, salient_parts = settings["parts"], settings["salient_parts"]
    struct = PlanesStruct(parts=parts, salient_parts=salient_parts)
    if salient_parts:
        struct.salient = build.keep("salient", tensors["salient"], torch.uint8, -(-columns // 8))
        second = tensors["second_signs"]
        struct.second_signs = build.keep("second_signs", second, torch.uint8, rows * second.shape[1])
        struct.second_bytes = second.shape[1]
    if (partition := tensors.get("partition")) is not None:
        struct.partition = build.keep("partition", partition, torch.uint8, rows * partition.shape[1])
        struct.partition_bytes = partition.shape[1]
    if settings["means"] != "none":
        means, unit = tensors["means"], tensors.get("mean_unit")
        struct.means = build.numbers("mean", means, unit, parts + salient_parts)
    if settings["column_scales"]:
        scales = _column_scales(packed, parts, salient_parts)
        struct.column_scales = build.keep("column_scales", scales, torch.float16, scales.numel())
    if settings["tail"]:
        step_start, steps, start = _tail_steps(packed)
        struct.tail_start = build.keep("tail_start", start, torch.int64, rows + 1)
        struct.tail_step_start = build.keep("tail_step_start", step_start, torch.int64, rows + 1)
        struct.tail_steps = build.keep("tail_steps", steps, torch.uint8, steps.numel())
        struct.tail_bits = build.keep(
            "tail_bits", tensors["tail_bits"], torch.uint8, -(-7 * settings["tail"] // 8)
        )
        struct.tail_scale = build.keep("tail_scale", tensors["tail_scale"], torch.float16, rows)
        struct.tail_zero = build.keep("tail_zero", tensors["tail_zero"], torch.float16, rows)
    return struct


def _column_scales(packed: PackedTensor, parts: int, salient_parts: int) -> Tensor:
    """The column scales of the first sign in part 0 and in part 1, then of the second: (4, in rounded up)
    float16, 1 where a column has none.
    """
    columns, tensors = packed.shape[1], packed.tensors
    salient = torch.zeros(columns, dtype=torch.bool, device="cpu")
    if salient_parts:
        salient = bits.unpack_symbols(tensors["salient"][None], 2, columns)[0].bool()
    used = columns_of_scales(salient, parts, salient_parts)
    of_kinds = torch.ones(used.shape, dtype=torch.float16, device="cpu")
    of_kinds[used] = tensors["column_scales"]
    width = -(-columns // PLANES_WORD) * PLANES_WORD
    found = torch.ones(4, width, dtype=torch.float16, device="cpu")
    for part in range(2):
        found[part, :columns] = of_kinds[min(part, parts - 1)]
        if salient_parts:
            kind = parts + 2 * min(part, salient_parts - 1)
            found[part, :columns][salient] = of_kinds[kind, salient]
            found[2 + part, :columns][salient] = of_kinds[kind + 1, salient]
    return found


def _tail_steps(packed: PackedTensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each row's steps begin, (out + 1,) int64; the steps, uint8; and where its entries begin, (out +
    1,) int64. A step leads from a tail column to the next one of the row, from column -1 to the first; one
    that is larger than a byte is preceded by zeros, PLANES_LEAP columns each.
    """
    (rows, columns), tensors = packed.shape, packed.tensors
    count, rice = (int(packed.settings[name]) for name in ("tail", "tail_rice"))
    positions = unpack_positions(tensors["tail_low"], tensors["tail_high"], count, rice, rows * columns)
    row, column = positions // columns, positions % columns
    before = torch.where(row.diff(prepend=row.new_full((1,), -1)) > 0, -1, column.roll(1))
    distance = column - before - 1
    needed = distance // PLANES_LEAP + 1
    steps = torch.zeros(int(needed.sum()), dtype=torch.uint8, device="cpu")
    steps[needed.cumsum(0) - 1] = (distance % PLANES_LEAP + 1).to(torch.uint8)
    return _starts(row, needed, rows), steps, _starts(row, torch.ones_like(needed), rows)


def _starts(row: Tensor, count: Tensor, rows: int) -> Tensor:
    """Where each row begins in a list of `count` for every entry, (out + 1,) int64."""
    start = torch.zeros(rows + 1, dtype=torch.int64, device="cpu")
    start[1:].index_add_(0, row, count)
    return start.cumsum_(0)
