"""From packed tensors to the pointers that the native library takes.

The library reads the packed tensors in place. Tensors that it cannot read directly are converted once, in
addition: codes of an alphabet whose radix words hold several symbols become fields of whole bits, the tail's
positions become lists by row, zero points that are stored as codes become bytes. `added_bytes` counts all
converted tensors. Packed tensors are never changed, and live as long as the pointers to them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bivlm.formats import factors, levels, planes, uniform
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import require
from bivlm.formats.encoding.plane_checks import is_plain
from bivlm.formats.encoding.positions import unpack_positions
from bivlm.native.structs import (
    KIND_LEVELS,
    KIND_PLANE,
    KIND_UNIFORM,
    NUMBERS,
    ZEROS,
    NumbersStruct,
    WeightStruct,
)

NARROW_COLUMNS = 1 << 14  # a column and a tail code fit 16 bits
_BLOCK = 1 << 20  # symbols that are converted at a time

# Settings of a `planes` weight that the library does not support, with the values that mean "not used"
_ONLY_SIGNS = {"parts": 1, "salient_columns": 0, "means": "none", "column_scales": False, "tail": 0}


# The same for people: what keeps a weight of a format on the reference kernel
NOT_IN_THE_LIBRARY = {"planes": tuple(name.replace("_", " ") for name in _ONLY_SIGNS)}


@dataclass(frozen=True, eq=False)
class NativeWeight:
    """`bivlm_weight` with the tensors that it points into; `added_bytes` counts those that are not part of
    the packed weight.
    """

    struct: WeightStruct
    kept: tuple[Tensor, ...]
    added_bytes: int

    @property
    def address(self) -> int:
        return ctypes.addressof(self.struct)

    @property
    def shape(self) -> tuple[int, int]:
        return self.struct.rows, self.struct.columns


def why_not(packed: PackedTensor) -> str:
    """Why the library cannot multiply with a weight; empty when it can."""
    if packed.format != "planes":
        return ""
    unknown = [
        name.replace("_", " ") for name, plain in _ONLY_SIGNS.items() if packed.settings[name] != plain
    ]
    return f"the library has no {', '.join(unknown)}" if unknown else ""


def prepare(packed: PackedTensor) -> NativeWeight:
    """A weight in `levels`, `uniform` or, if `why_not` is empty, `planes`. ValueError for tensors that
    contradict each other.
    """
    return {"levels": _levels, "uniform": _uniform, "planes": _plane}[packed.format](packed)


def prepare_factors(packed: PackedTensor) -> tuple[NativeWeight, NativeWeight]:
    """The two factors of a weight in `factors`: diag(row_scale · 2^exponent) A, then diag(middle_scale) B.
    The caller applies the column scales.
    """
    settings = factors.checked(packed)
    (rows, columns), rank, tensors = packed.shape, settings["rank"], packed.tensors
    left = _Build(KIND_PLANE, 1, (rows, rank), rank, tensors["left_signs"], 2.0 ** settings["exponent"])
    left.numbers(tensors["row_scale"])
    right = _Build(KIND_PLANE, 1, (rank, columns), columns, tensors["right_signs"])
    right.numbers(tensors["middle_scale"])
    return left.done(packed), right.done(packed)


def _levels(packed: PackedTensor) -> NativeWeight:
    settings, tensors = levels.checked(packed), packed.tensors
    alphabet, width = settings["alphabet"], (settings["alphabet"] - 1).bit_length()
    codes = _fields(tensors["codes"], alphabet, packed.shape[1])
    build = _Build(KIND_LEVELS, width, packed.shape, settings["group_size"], codes, float(tensors["scale"]))
    build.points(levels=tensors["levels"])
    build.struct.table_rows, build.struct.alphabet, build.struct.symmetric = (
        len(tensors["levels"]),
        alphabet,
        settings["symmetric"],
    )
    if settings["tail"]:
        start, entries = _tail(codes, width, packed.shape, settings, tensors)
        build.points(
            tail_start=start,
            tail_entries=entries,
            tail_levels=tensors["tail_levels"].float(),
            tail_scale=tensors["tail_scale"],
        )
        build.struct.tail_wide = entries.dtype == torch.uint32
    return build.done(packed)


def _uniform(packed: PackedTensor) -> NativeWeight:
    settings, tensors = uniform.checked(packed), packed.tensors
    alphabet, columns = settings["alphabet"], packed.shape[1]
    codes = _fields(tensors["codes"], alphabet, columns)
    build = _Build(
        KIND_UNIFORM,
        (alphabet - 1).bit_length(),
        packed.shape,
        settings["group_size"],
        codes,
        2.0 ** settings["exponent"],
    )
    build.struct.alphabet, build.struct.zero_kind = alphabet, ZEROS[settings["zero_point"]]
    build.numbers(tensors["scales"], tensors.get("scale_unit"))
    if settings["zero_point"] == "code":
        build.points(
            zeros=bits.unpack_symbols(tensors["zero_points"], alphabet, -(-columns // settings["group_size"]))
        )
    elif settings["zero_point"] == "free":
        build.points(zeros=tensors["zero_points"])
    if settings["column_scale"]:
        build.points(column_scale=tensors["column_scale"])
    return build.done(packed)


def _plane(packed: PackedTensor) -> NativeWeight:
    settings, tensors = planes.checked(packed), packed.tensors
    group_size = settings["group_size"]
    if is_plain(settings, packed.shape[1]):
        blocks = tensors["blocks"]
        build = _Build(KIND_PLANE, 1, packed.shape, group_size, blocks.flatten(1))
        build.struct.group_bytes = blocks.shape[2]
        return build.done(packed)
    build = _Build(KIND_PLANE, 1, packed.shape, group_size, tensors["signs"], 2.0 ** settings["exponent"])
    build.numbers(tensors["scales"], tensors.get("scale_unit"))
    return build.done(packed)


class _Build:
    """A `bivlm_weight` under construction: `points` sets pointers and keeps their tensors alive."""

    def __init__(
        self,
        kind: int,
        width: int,
        shape: tuple[int, int],
        group_size: int,
        codes: Tensor,
        scale: float = 1.0,
    ) -> None:
        rows, columns = shape
        self.struct = WeightStruct(
            kind=kind, bits=width, rows=rows, columns=columns, group_size=group_size, scale=scale
        )
        self.struct.groups, self.struct.row_bytes, self.struct.alphabet = (
            -(-columns // group_size),
            codes.shape[1],
            1 << width,
        )
        self.kept: list[Tensor] = []
        self.points(codes=codes)

    def points(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            setattr(self.struct, name, self._keep(tensor))

    def numbers(self, stored: Tensor, unit: Tensor | None = None) -> None:
        self.struct.scales = NumbersStruct(
            self._keep(stored), NUMBERS[stored.dtype], None if unit is None else self._keep(unit)
        )

    def _keep(self, tensor: Tensor) -> int:
        require(
            tensor.device.type == "cpu",
            f"a packed tensor is on {tensor.device}, and the input on the CPU; move the model there",
        )
        self.kept.append(tensor.contiguous())
        return self.kept[-1].data_ptr()

    def done(self, packed: PackedTensor) -> NativeWeight:
        stored = {tensor.untyped_storage().data_ptr() for tensor in packed.tensors.values()}
        added = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in self.kept
        }
        return NativeWeight(
            self.struct, tuple(self.kept), sum(size for place, size in added.items() if place not in stored)
        )


def _fields(codes: Tensor, alphabet: int, columns: int) -> Tensor:
    """Radix words as fields of whole bits: unchanged if a word holds one symbol, else converted, some rows at
    a time.
    """
    if bits.RADIX[alphabet][0] == 1:
        return codes
    width = (alphabet - 1).bit_length()
    fields = torch.empty(len(codes), bits.stream_bytes(columns, width), dtype=torch.uint8)
    step = max(1, _BLOCK // columns)
    for start in range(0, len(codes), step):
        fields[start : start + step] = bits.pack_fields(
            bits.unpack_symbols(codes[start : start + step], alphabet, columns), width
        )
    return fields


def _tail(
    codes: Tensor,
    width: int,
    shape: tuple[int, int],
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Where each row's entries begin, (out + 1,) int64, and the entries, column << 2 | code, uint16 or
    uint32.
    """
    (rows, columns), count = shape, settings["tail"]
    positions = unpack_positions(
        tensors["tail_low"], tensors["tail_high"], count, settings["tail_rice"], rows * columns
    )
    row, column = positions // columns, positions % columns
    code = _fields_at(codes, width, row, column)
    outside = levels.tail_code_bits_outside(settings["alphabet"])
    require(
        int(code.max()) <= 3 >> outside,
        f"levels: 'codes' is {int(code.max())} under a tail entry; at most {3 >> outside}",
    )
    if outside:
        code = code << 1 | bits.unpack_fields(tensors["tail_bits"][None], 1, count)[0]
    start = torch.zeros(rows + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(row, minlength=rows), 0, out=start[1:])
    return start, (column << 2 | code).to(torch.uint16 if columns <= NARROW_COLUMNS else torch.uint32)


def _fields_at(stream: Tensor, width: int, row: Tensor, column: Tensor) -> Tensor:
    """The fields of `width` ≤ 8 bits at some places of a stream (rows, bytes): int64."""
    flat, bit = stream.reshape(-1), column * width
    byte = row * stream.shape[1] + (bit >> 3)
    both = flat[byte].long() | flat[(byte + 1).clamp_(max=flat.numel() - 1)].long() << 8
    return both >> (bit & 7) & ((1 << width) - 1)
