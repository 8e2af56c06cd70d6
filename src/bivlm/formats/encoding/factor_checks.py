"""The rules of docs/format.md for a weight in `factors`, of tensors or numpy arrays."""

from __future__ import annotations

from typing import Any

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import streams
from bivlm.formats.encoding.arrays import Array, as_float32, is_finite, largest, product_is_finite
from bivlm.formats.encoding.checks import (
    Layout,
    blaming,
    check_density,
    check_integer,
    check_tensors,
    known_settings,
    require,
)
from bivlm.formats.encoding.number_checks import LARGEST_EXPONENT

SETTINGS = ["exponent", "rank"]


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `FactorsWeight.encode` cannot have written. Nothing is expanded."""
    settings, tensors = checked(packed), packed.tensors
    check_density(packed.shape, packed.nbytes)
    for name, count in (("left_signs", settings["rank"]), ("right_signs", packed.shape[1])):
        with blaming(f"'{name}'"):
            streams.check_stream(tensors[name], 1, count)
    check_scales(tensors["row_scale"], tensors["middle_scale"], tensors["column_scale"], settings["exponent"])


def checked(packed: PackedTensor) -> dict[str, Any]:
    """The settings; ValueError unless they match the dtype and shape of every tensor. The contents of the
    tensors are not read.
    """
    settings = _checked_settings(packed)
    check_tensors(packed.tensors, _layout(packed.shape, settings["rank"]))
    return settings


def check_scales(row_scale: Array, middle_scale: Array, column_scale: Array, exponent: int) -> None:
    for name, scale in (
        ("row_scale", row_scale),
        ("middle_scale", middle_scale),
        ("column_scale", column_scale),
    ):
        require(is_finite(scale), f"'{name}' holds NaN or infinity")
    middle = float(abs(as_float32(middle_scale)).sum())
    require(
        product_is_finite(largest(row_scale), 2.0**exponent, middle, largest(column_scale)),
        "'row_scale' times 2^exponent, 'middle_scale' and 'column_scale' overflow float32",
    )


def _layout(shape: tuple[int, int], rank: int) -> Layout:
    """Dtype and shape of every tensor."""
    rows, columns = shape
    return {
        "left_signs": ("uint8", (rows, streams.stream_bytes(rank, 1))),
        "right_signs": ("uint8", (rank, streams.stream_bytes(columns, 1))),
        "row_scale": ("float16", (rows,)),
        "middle_scale": ("float16", (rank,)),
        "column_scale": ("float16", (columns,)),
    }


def _checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    settings = known_settings(packed, "factors", SETTINGS)
    require(
        type(settings["rank"]) is int and settings["rank"] >= 1,
        f"'rank' is {settings['rank']!r}; needs an integer, at least 1",
    )
    check_integer("exponent", settings["exponent"], -LARGEST_EXPONENT, LARGEST_EXPONENT)
    return settings
