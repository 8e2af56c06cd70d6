"""The rules of docs/format.md for a weight in `uniform`, of tensors or numpy arrays."""

from __future__ import annotations

from typing import Any

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import streams
from bivlm.formats.encoding.arrays import Array, as_float32, dtype_name, is_finite
from bivlm.formats.encoding.checks import (
    Layout,
    blaming,
    check_boolean,
    check_choice,
    check_integer,
    check_tensors,
    known_settings,
    require,
)
from bivlm.formats.encoding.number_checks import LARGEST_EXPONENT, check_numbers, expanded

ALPHABETS = tuple(streams.RADIX)
SETTINGS = ["alphabet", "column_scale", "exponent", "group_size", "scales", "zero_point"]
STORED = ("float32", "float16", "uint8")
ZERO_POINTS = ("middle", "code", "free")


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `UniformWeight.encode` cannot have written. Nothing is expanded."""
    settings, tensors = checked(packed), packed.tensors
    alphabet, columns = settings["alphabet"], packed.shape[1]
    with blaming("'codes'"):
        streams.check_symbols(tensors["codes"], alphabet, columns)
    with blaming("'scales'"):
        check_numbers(tensors["scales"], tensors.get("scale_unit"))
    points = tensors.get("zero_points")
    if settings["zero_point"] == "code":
        with blaming("'zero_points'"):
            points = streams.symbols(points, alphabet, -(-columns // settings["group_size"]))
    numbers = tensors["scales"], tensors.get("scale_unit"), points, tensors.get("column_scale")
    check_values(alphabet, *numbers, settings["exponent"])


def checked(packed: PackedTensor) -> dict[str, Any]:
    """The settings; ValueError unless they match the dtype and shape of every tensor. The contents of the
    tensors are not read.
    """
    settings = _checked_settings(packed)
    check_tensors(packed.tensors, _layout(packed.shape, settings))
    return settings


def check_kinds(alphabet: Any, group_size: Any, exponent: Any, columns: int) -> None:
    require(
        type(alphabet) is int and alphabet in ALPHABETS,
        f"'alphabet' is {alphabet!r}; needs 2 … 16, 32, 64, 128 or 256",
    )
    check_integer("group_size", group_size, 1, columns)
    check_integer("exponent", exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)


def check_values(
    alphabet: int,
    scales: Array,
    unit: Array | None,
    zero_points: Array | None,
    column_scale: Array | None,
    exponent: int,
) -> None:
    """The rules for the numbers of a weight, whose shapes and dtypes are right. None stands for the unit of
    scales that have none, the zero point in the middle, and no column scales.
    """
    require(bool((scales >= 0).all()), "'scales' holds a number below 0")
    if zero_points is not None and dtype_name(zero_points.dtype) == "float16":
        require(is_finite(zero_points), "'zero_points' holds NaN or infinity")
    elif zero_points is not None:
        require(
            int(zero_points.max()) < alphabet,
            f"'zero_points' holds {int(zero_points.max())}; the alphabet is {alphabet}",
        )
    require(
        column_scale is None or (bool((column_scale > 0).all()) and is_finite(column_scale)),
        "'column_scale' holds a number that is not finite or not above 0",
    )
    # the largest distance from a zero point, times its scale and the largest column scale
    size = expanded(scales, unit)[..., 0] * 2.0**exponent
    widest = 1.0 if column_scale is None else float(column_scale.max())
    zero = (alphabet - 1) / 2 if zero_points is None else as_float32(zero_points)
    require(
        all(is_finite(abs(reach) * size * widest) for reach in (zero, alphabet - 1 - zero)),
        "'scales' times 2^exponent, 'zero_points' and 'column_scale' overflow float32",
    )


def _checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    settings = known_settings(packed, "uniform", SETTINGS)
    check_kinds(settings["alphabet"], settings["group_size"], settings["exponent"], packed.shape[1])
    check_choice("scales", settings["scales"], STORED)
    check_choice("zero_point", settings["zero_point"], ZERO_POINTS)
    check_boolean("column_scale", settings["column_scale"])
    return settings


def _layout(shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
    """Dtype and shape of every tensor that the settings require."""
    rows, columns = shape
    alphabet, groups = settings["alphabet"], -(-columns // settings["group_size"])
    tensors: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "codes": ("uint8", (rows, streams.symbols_bytes(columns, alphabet))),
        "scales": (settings["scales"], (rows, groups, 1)),
    }
    if settings["scales"] == "uint8":
        tensors["scale_unit"] = ("float16", (rows, 1))
    if settings["zero_point"] == "code":
        tensors["zero_points"] = ("uint8", (rows, streams.symbols_bytes(groups, alphabet)))
    elif settings["zero_point"] == "free":
        tensors["zero_points"] = ("float16", (rows, groups))
    if settings["column_scale"]:
        tensors["column_scale"] = ("float16", (columns,))
    return tensors
