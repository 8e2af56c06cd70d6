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
from bivlm.formats.encoding.checks import (
    Layout,
    blaming,
    check_boolean,
    check_choice,
    check_integer,
    check_tensor,
    check_tensors,
    dtype_name,
    known_settings,
    own_copy,
    require,
)
from bivlm.formats.encoding.numbers import LARGEST_EXPONENT, NumberBits, Numbers, numbers_nbytes
from bivlm.formats.grouped import GroupedWeight

ALPHABETS = tuple(bits.RADIX)
SETTINGS = ["alphabet", "column_scale", "exponent", "group_size", "scales", "zero_point"]
STORED = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
ZERO_POINTS = ("middle", "code", "free")

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
    def check_packed(cls, packed: PackedTensor) -> None:
        with blaming("uniform"):
            settings, tensors = checked(packed), packed.tensors
            with blaming("'codes'"):
                bits.check_symbols(tensors["codes"], settings["alphabet"], packed.shape[1])
            nothing = torch.zeros(0, dtype=torch.float16, device=tensors["codes"].device)
            with blaming("'scales'"):
                scales = Numbers(tensors["scales"], tensors.get("scale_unit", nothing))
            with blaming("'zero_points'"):
                zero_points = _zero_points(packed, nothing)
            _check_values(
                settings["alphabet"],
                scales,
                zero_points,
                tensors.get("column_scale", nothing),
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


def checked(packed: PackedTensor) -> dict[str, Any]:
    """The settings; ValueError unless they match the dtype and shape of every tensor. The contents of the
    tensors are not read.
    """
    settings = _checked_settings(packed)
    check_tensors(packed.tensors, _layout(packed.shape, settings))
    return settings


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


def _layout(shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
    """Dtype and shape of every tensor that the settings require."""
    rows, columns = shape
    alphabet, groups = settings["alphabet"], -(-columns // settings["group_size"])
    tensors: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
        "codes": (torch.uint8, (rows, bits.symbols_bytes(columns, alphabet))),
        "scales": (STORED[settings["scales"]], (rows, groups, 1)),
    }
    if settings["scales"] == "uint8":
        tensors["scale_unit"] = (torch.float16, (rows, 1))
    if settings["zero_point"] == "code":
        tensors["zero_points"] = (torch.uint8, (rows, bits.symbols_bytes(groups, alphabet)))
    elif settings["zero_point"] == "free":
        tensors["zero_points"] = (torch.float16, (rows, groups))
    if settings["column_scale"]:
        tensors["column_scale"] = (torch.float16, (columns,))
    return tensors


def _checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    settings = known_settings(packed, "uniform", SETTINGS)
    _check_numbers(settings["alphabet"], settings["group_size"], settings["exponent"], packed.shape[1])
    check_choice("scales", settings["scales"], list(STORED))
    check_choice("zero_point", settings["zero_point"], ZERO_POINTS)
    check_boolean("column_scale", settings["column_scale"])
    return settings


def _check_numbers(alphabet: Any, group_size: Any, exponent: Any, columns: int) -> None:
    require(
        type(alphabet) is int and alphabet in ALPHABETS,
        f"'alphabet' is {alphabet!r}; needs 2 … 16, 32, 64, 128 or 256",
    )
    check_integer("group_size", group_size, 1, columns)
    check_integer("exponent", exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)


def _check_weight(weight: UniformWeight) -> None:
    """ValueError, naming the field, for any weight that `uniform` cannot hold."""
    require(
        weight.codes.dim() == 2 and weight.codes.numel() > 0,
        f"'codes' is {list(weight.codes.shape)}; needs (out, in), each at least 1",
    )
    rows, columns = weight.codes.shape
    check_tensor("codes", weight.codes, torch.uint8, (rows, columns))
    _check_numbers(weight.alphabet, weight.group_size, weight.exponent, columns)
    require(
        int(weight.codes.max()) < weight.alphabet,
        f"'codes' holds {int(weight.codes.max())}; the alphabet is {weight.alphabet}",
    )
    groups = -(-columns // weight.group_size)
    stored = weight.scales.stored
    require(
        stored.dtype in STORED.values(),
        f"'scales' is {dtype_name(stored.dtype)}; needs one of {', '.join(STORED)}",
    )
    require(
        tuple(stored.shape) == (rows, groups, 1),
        f"'scales' is {list(stored.shape)}; needs {[rows, groups, 1]}",
    )
    points, column_scale = weight.zero_points, weight.column_scale
    if not points.numel():
        check_tensor("zero_points", points, torch.float16, (0,))
    else:
        require(
            points.dtype in (torch.uint8, torch.float16),
            f"'zero_points' is {dtype_name(points.dtype)}; needs uint8 or float16",
        )
        check_tensor("zero_points", points, points.dtype, (rows, groups))
    check_tensor("column_scale", column_scale, torch.float16, (columns,) if column_scale.numel() else (0,))
    _check_values(weight.alphabet, weight.scales, points, column_scale, weight.exponent)


def _check_values(
    alphabet: int, scales: Numbers, zero_points: Tensor, column_scale: Tensor, exponent: int
) -> None:
    """The rules for the numbers of a weight, whose shapes and dtypes are right."""
    require(bool((scales.stored >= 0).all()), "'scales' holds a number below 0")
    if zero_points.dtype == torch.uint8:
        require(
            int(zero_points.max()) < alphabet,
            f"'zero_points' holds {int(zero_points.max())}; the alphabet is {alphabet}",
        )
    else:
        require(bool(zero_points.isfinite().all()), "'zero_points' holds NaN or infinity")
    require(
        bool((column_scale > 0).all() and column_scale.isfinite().all()),
        "'column_scale' holds a number that is not finite or not above 0",
    )
    _check_size(alphabet, scales, zero_points, column_scale, exponent)


def _check_size(
    alphabet: int, scales: Numbers, zero_points: Tensor, column_scale: Tensor, exponent: int
) -> None:
    """The largest distance from a zero point, times its scale and the largest column scale, must not overflow
    float32.
    """
    points = zero_points if zero_points.numel() else zero_points.new_full((), (alphabet - 1) / 2)
    zero = points.float()
    reach = torch.maximum(zero.abs(), (alphabet - 1 - zero).abs())
    largest = reach * (scales.expand()[..., 0] * 2.0**exponent)
    if column_scale.numel():
        largest = largest * column_scale.float().max()
    require(
        bool(largest.isfinite().all()),
        "'scales' times 2^exponent, 'zero_points' and 'column_scale' overflow float32",
    )
