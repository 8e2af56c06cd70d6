"""`uniform`: codes on an evenly spaced grid, with a scale and a zero point for each group of columns.

    w[i, j] = (codes[i, j] - zero_point[i, g]) * (scale[i, g] * 2^exponent) [* column_scale[j]]
    g = j // group_size

in float32, from left to right. The zero point is the grid's middle for all groups, or per group a code or any
number. Column scales serve AWQ, which elsewhere folds them into other layers. docs/format.md has every byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.arrays import dtype_name
from bivlm.formats.encoding.checks import blaming, check_tensor, own_copy, require
from bivlm.formats.encoding.numbers import NumberBits, Numbers, numbers_nbytes
from bivlm.formats.encoding.uniform_checks import STORED, check_kinds, check_values, checked
from bivlm.formats.grouped import GroupedWeight

_BLOCK = 1 << 18  # weights that are expanded at a time: their temporaries stay in the cache


@dataclass(frozen=True, eq=False)
class UniformWeight(GroupedWeight):
    """A weight of (out, in) in `uniform`.

    codes         (out, in) uint8, each below `alphabet`
    alphabet      the number of grid points: 2…16, 32, 64, 128 or 256
    scales        (out, G, 1), none negative
    zero_points   in units of the codes: (0,) float16 for the middle, (alphabet - 1) / 2, of every group;
                  (out, G) uint8, each below `alphabet`; or (out, G) float16
    column_scale  (in,) float16, above 0; (0,) when there is none
    group_size    columns that share a scale and a zero point, 1…in; the last group may be shorter
    exponent      -126…126: scales are relative to 2^exponent

    G = ceil(in / group_size). All tensors are on one device. ValueError, naming the field, for anything else.
    """

    format: ClassVar[str] = "uniform"

    codes: Tensor
    alphabet: int
    scales: Numbers
    zero_points: Tensor
    column_scale: Tensor
    group_size: int
    exponent: int

    def check(self) -> None:
        _check_weight(self)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.codes.shape
        return rows, columns

    @property
    def zero_kind(self) -> Literal["middle", "code", "free"]:
        if not self.zero_points.numel():
            return "middle"
        return "code" if self.zero_points.dtype == torch.uint8 else "free"

    def dequantize(self) -> Tensor:
        rows, columns = self.shape
        scales = self.scales.expand()[..., 0] * 2.0**self.exponent
        column_scale = self.column_scale.float()
        weight = torch.empty(rows, columns, dtype=torch.float32, device=self.codes.device)
        step = max(1, _BLOCK // columns)
        for start in range(0, rows, step):
            block = slice(start, start + step)
            zero = (
                self._spread(self.zero_points[block].float())
                if self.zero_points.numel()
                else (self.alphabet - 1) / 2
            )
            weight[block] = (self.codes[block].float() - zero) * self._spread(scales[block])
            if column_scale.numel():
                weight[block] *= column_scale
        return weight

    def _spread(self, numbers: Tensor) -> Tensor:
        """(rows, G) numbers of the groups as (rows, in)."""
        return (
            numbers[..., None].expand(-1, -1, self.group_size).reshape(len(numbers), -1)[:, : self.shape[1]]
        )

    def _part(self, rows: slice, columns: slice, groups: slice, group_size: int) -> Self:
        points = self.zero_points
        return replace(
            self,
            codes=self.codes[rows, columns],
            scales=self.scales.some(rows, groups),
            zero_points=points[rows, groups] if points.numel() else points,
            column_scale=self.column_scale[columns] if self.column_scale.numel() else self.column_scale,
            group_size=group_size,
        )

    def encode(self) -> PackedTensor:
        settings: dict[str, Any] = {
            "alphabet": self.alphabet,
            "group_size": self.group_size,
            "exponent": self.exponent,
            "scales": dtype_name(self.scales.stored.dtype),
            "zero_point": self.zero_kind,
            "column_scale": self.column_scale.numel() > 0,
        }
        tensors = {
            "codes": bits.pack_symbols(self.codes, self.alphabet),
            "scales": own_copy(self.scales.stored),
        }
        if self.scales.in_eight_bits:
            tensors["scale_unit"] = own_copy(self.scales.unit)
        if self.zero_kind == "code":
            tensors["zero_points"] = bits.pack_symbols(self.zero_points, self.alphabet)
        elif self.zero_kind == "free":
            tensors["zero_points"] = own_copy(self.zero_points)
        if self.column_scale.numel():
            tensors["column_scale"] = own_copy(self.column_scale)
        return PackedTensor(self.format, self.shape, tensors, settings)

    @classmethod
    def decode(cls, packed: PackedTensor) -> Self:
        """The inverse of `encode`. The numbers are shared with `packed`, not copied."""
        cls.check_packed(packed)
        settings: dict[str, Any] = dict(packed.settings)
        tensors = packed.tensors
        codes = bits.unpack_symbols(tensors["codes"], settings["alphabet"], packed.shape[1])
        nothing = torch.zeros(0, dtype=torch.float16, device=codes.device)
        return cls(
            codes,
            settings["alphabet"],
            Numbers(tensors["scales"], tensors.get("scale_unit", nothing)),
            _zero_points(packed, nothing),
            tensors.get("column_scale", nothing),
            settings["group_size"],
            settings["exponent"],
        )

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        """Rows are stored separately: the parts of these rows are a packed weight of their own."""
        with blaming("uniform"):
            checked(packed)
        if not len(index):
            return torch.empty(0, packed.shape[1], dtype=torch.float32, device=index.device)
        tensors = {
            name: tensor if name == "column_scale" else tensor[index]
            for name, tensor in packed.tensors.items()
        }
        return cls.decode(
            PackedTensor(packed.format, (len(index), packed.shape[1]), tensors, packed.settings)
        ).dequantize()


def uniform_nbytes(
    shape: tuple[int, int],
    alphabet: int,
    group_size: int,
    scale_bits: NumberBits,
    zero: Literal["middle", "code", "free"],
    column_scale: bool,
) -> int:
    """The bytes that `encode` writes for a weight of this kind, exactly."""
    rows, columns = shape
    groups = -(-columns // group_size)
    points = {"middle": 0, "code": rows * bits.symbols_bytes(groups, alphabet), "free": 2 * rows * groups}[
        zero
    ]
    return (
        rows * bits.symbols_bytes(columns, alphabet)
        + numbers_nbytes(rows, groups, 1, scale_bits)
        + points
        + (2 * columns if column_scale else 0)
    )


def _zero_points(packed: PackedTensor, nothing: Tensor) -> Tensor:
    """The zero points of a packed weight as the field of a `UniformWeight`."""
    points, settings = packed.tensors.get("zero_points", nothing), packed.settings
    if settings["zero_point"] != "code":
        return points
    groups = -(-packed.shape[1] // int(settings["group_size"]))
    return bits.unpack_symbols(points, int(settings["alphabet"]), groups)


def _check_weight(weight: UniformWeight) -> None:
    """ValueError, naming the field, for any weight that `uniform` cannot hold."""
    require(
        weight.codes.dim() == 2 and weight.codes.numel() > 0,
        f"'codes' is {list(weight.codes.shape)}; needs (out, in), each at least 1",
    )
    rows, columns = weight.codes.shape
    check_tensor("codes", weight.codes, "uint8", (rows, columns))
    check_kinds(weight.alphabet, weight.group_size, weight.exponent, columns)
    require(
        int(weight.codes.max()) < weight.alphabet,
        f"'codes' holds {int(weight.codes.max())}; the alphabet is {weight.alphabet}",
    )
    groups = -(-columns // weight.group_size)
    stored, unit = weight.scales.stored, weight.scales.unit
    require(
        dtype_name(stored.dtype) in STORED,
        f"'scales' is {dtype_name(stored.dtype)}; needs one of {', '.join(STORED)}",
    )
    require(
        tuple(stored.shape) == (rows, groups, 1),
        f"'scales' is {list(stored.shape)}; needs {[rows, groups, 1]}",
    )
    points, column_scale = weight.zero_points, weight.column_scale
    if not points.numel():
        check_tensor("zero_points", points, "float16", (0,))
    else:
        found = dtype_name(points.dtype)
        require(found in ("uint8", "float16"), f"'zero_points' is {found}; needs uint8 or float16")
        check_tensor("zero_points", points, found, (rows, groups))
    check_tensor("column_scale", column_scale, "float16", (columns,) if column_scale.numel() else (0,))
    zero, factor = (one if one.numel() else None for one in (points, column_scale))
    check_values(weight.alphabet, stored, unit, zero, factor, weight.exponent)
