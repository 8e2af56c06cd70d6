"""`uniform`: codes on an evenly spaced grid, with a scale and a zero point for each group of columns.

    w[i, j] = (codes[i, j] - zero_point[i, g]) * (scale[i, g] * 2^exponent) [* column_scale[j]]
    g = j // group_size

in float32, from left to right. The zero point is the grid's middle for all groups, or per group a code or any
number. Column scales serve AWQ, which elsewhere folds them into other layers. docs/format.md has every byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor, QuantizedWeight
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import (
    Layout,
    blaming,
    check_tensor,
    check_tensors,
    dtype_name,
    own_copy,
    require,
)
from bivlm.formats.encoding.numbers import LARGEST_EXPONENT, NumberBits, Numbers, numbers_nbytes

ALPHABETS = tuple(bits.RADIX)
SETTINGS = ["alphabet", "column_scale", "exponent", "group_size", "scales", "zero_point"]
STORED = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
ZERO_POINTS = ("middle", "code", "free")

_BLOCK = 1 << 18  # weights that are expanded at a time: their temporaries stay in the cache


@dataclass(frozen=True, eq=False)
class UniformWeight(QuantizedWeight):
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
        with blaming("uniform"):
            settings = checked(packed)
            tensors, columns, alphabet = packed.tensors, packed.shape[1], settings["alphabet"]
            with blaming("'codes'"):
                codes = bits.unpack_symbols(tensors["codes"], alphabet, columns)
            nothing = torch.zeros(0, dtype=torch.float16, device=codes.device)
            with blaming("'scales'"):
                scales = Numbers(tensors["scales"], tensors.get("scale_unit", nothing))
            zero_points = tensors.get("zero_points", nothing)
            if settings["zero_point"] == "code":
                with blaming("'zero_points'"):
                    zero_points = bits.unpack_symbols(
                        zero_points, alphabet, -(-columns // settings["group_size"])
                    )
        column_scale = tensors.get("column_scale", nothing)
        return cls(
            codes, alphabet, scales, zero_points, column_scale, settings["group_size"], settings["exponent"]
        )

    @classmethod
    def unpack_rows(cls, packed: PackedTensor, index: Tensor) -> Tensor:
        """Rows are stored separately: the parts of these rows are a packed weight of their own."""
        if not len(index):
            return torch.empty(0, packed.shape[1], device=index.device)
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
    require(packed.format == "uniform", f"the format is {packed.format!r}")
    require(
        len(packed.shape) == 2 and min(packed.shape) >= 1,
        f"the shape is {packed.shape}; needs (out, in), each at least 1",
    )
    settings: dict[str, Any] = dict(packed.settings)
    require(sorted(settings) == SETTINGS, f"the settings are {sorted(settings)}; needs {SETTINGS}")
    _check_numbers(settings["alphabet"], settings["group_size"], settings["exponent"], packed.shape[1])
    require(
        settings["scales"] in STORED, f"'scales' is {settings['scales']!r}; needs one of {', '.join(STORED)}"
    )
    require(
        settings["zero_point"] in ZERO_POINTS,
        f"'zero_point' is {settings['zero_point']!r}; needs one of {', '.join(ZERO_POINTS)}",
    )
    require(
        type(settings["column_scale"]) is bool,
        f"'column_scale' is {settings['column_scale']!r}; needs true or false",
    )
    return settings


def _check_numbers(alphabet: Any, group_size: Any, exponent: Any, columns: int) -> None:
    require(
        type(alphabet) is int and alphabet in ALPHABETS,
        f"'alphabet' is {alphabet!r}; needs 2 … 16, 32, 64, 128 or 256",
    )
    for name, value, least, most in (
        ("group_size", group_size, 1, columns),
        ("exponent", exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT),
    ):
        require(
            type(value) is int and least <= value <= most, f"'{name}' is {value!r}; needs {least} … {most}"
        )


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
    require(bool((stored >= 0).all()), "'scales' holds a number below 0")
    _check_zero_points(weight, rows, groups)
    _check_column_scale(weight, columns)
    _check_size(weight)


def _check_zero_points(weight: UniformWeight, rows: int, groups: int) -> None:
    points = weight.zero_points
    if not points.numel():
        check_tensor("zero_points", points, torch.float16, (0,))
        return
    require(
        points.dtype in (torch.uint8, torch.float16),
        f"'zero_points' is {dtype_name(points.dtype)}; needs uint8 or float16",
    )
    check_tensor("zero_points", points, points.dtype, (rows, groups))
    if points.dtype == torch.uint8:
        require(
            int(points.max()) < weight.alphabet,
            f"'zero_points' holds {int(points.max())}; the alphabet is {weight.alphabet}",
        )
    else:
        require(bool(points.isfinite().all()), "'zero_points' holds NaN or infinity")


def _check_column_scale(weight: UniformWeight, columns: int) -> None:
    scale = weight.column_scale
    check_tensor("column_scale", scale, torch.float16, (columns,) if scale.numel() else (0,))
    require(
        bool((scale > 0).all() and scale.isfinite().all()),
        "'column_scale' holds a number that is not finite or not above 0",
    )


def _check_size(weight: UniformWeight) -> None:
    """The largest distance from a zero point, times its scale and the largest column scale, must not overflow
    float32.
    """
    zero = (
        weight.zero_points.float()
        if weight.zero_points.numel()
        else torch.tensor((weight.alphabet - 1) / 2, device=weight.codes.device)
    )
    reach = torch.maximum(zero.abs(), (weight.alphabet - 1 - zero).abs())
    largest = reach * (weight.scales.expand()[..., 0] * 2.0**weight.exponent)
    if weight.column_scale.numel():
        largest = largest * weight.column_scale.float().max()
    require(
        bool(largest.isfinite().all()),
        "'scales' times 2^exponent, 'zero_points' and 'column_scale' overflow float32",
    )
