"""The rules of docs/format.md for a weight in `planes`, and the tensors that store it in a file."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.encoding.checks import (
    Layout,
    check_boolean,
    check_choice,
    check_integer,
    check_tensor,
    known_settings,
    require,
)
from bivlm.formats.encoding.numbers import LARGEST_EXPONENT, Numbers

if TYPE_CHECKING:
    from bivlm.formats.planes import PlanesWeight

STORED = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8, "int8": torch.int8}
SETTINGS = [
    "column_scales",
    "exponent",
    "group_size",
    "means",
    "parts",
    "salient_columns",
    "salient_parts",
    "scales",
    "tail",
    "tail_rice",
]

# The settings of a plain plane. Its group size must also be whole bytes and divide the width.
_PLAIN = {
    "column_scales": False,
    "exponent": 0,
    "means": "none",
    "parts": 1,
    "salient_columns": 0,
    "scales": "float16",
    "tail": 0,
}


def scale_count(parts: int, salient_parts: int) -> int:
    """Scales per row and group: one for each part of the ordinary columns, one for each part and plane of the
    salient ones.
    """
    return parts + 2 * salient_parts


def is_plain(settings: Mapping[str, Any], columns: int) -> bool:
    """Whether scales and signs lie together in `blocks`."""
    group_size = settings["group_size"]
    return (
        all(settings[name] == value for name, value in _PLAIN.items())
        and group_size % 8 == 0
        and columns % group_size == 0
    )


def layout(shape: tuple[int, int], settings: Mapping[str, Any]) -> Layout:
    """Every tensor of a weight with these settings. Only the size of `tail_high` depends on the positions."""
    rows, columns = shape
    groups = -(-columns // settings["group_size"])
    if is_plain(settings, columns):
        return {"blocks": (torch.uint8, (rows, groups, 2 + settings["group_size"] // 8))}
    parts, salient_parts, salient, tail = (
        settings[name] for name in ("parts", "salient_parts", "salient_columns", "tail")
    )
    ordinary = columns - salient
    tensors: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
        "signs": (torch.uint8, (rows, bits.stream_bytes(columns, 1)))
    }
    if parted := (parts == 2) * ordinary + (salient_parts == 2) * salient:
        tensors["partition"] = (torch.uint8, (rows, bits.stream_bytes(parted, 1)))
    if salient:
        tensors["salient"] = (torch.uint8, (bits.stream_bytes(columns, 1),))
        tensors["second_signs"] = (torch.uint8, (rows, bits.stream_bytes(salient, 1)))
    tensors |= _numbers_layout("scale", settings["scales"], rows, groups, scale_count(parts, salient_parts))
    tensors |= _numbers_layout("mean", settings["means"], rows, groups, parts + salient_parts)
    if settings["column_scales"]:
        tensors["column_scales"] = (torch.float16, (parts * ordinary + 2 * salient_parts * salient,))
    if tail:
        tensors["tail_low"] = (torch.uint8, (bits.stream_bytes(tail, settings["tail_rice"]),))
        tensors["tail_high"] = (torch.uint8, (None,))
        tensors["tail_bits"] = (torch.uint8, (bits.stream_bytes(tail, 7),))
        tensors["tail_scale"] = tensors["tail_zero"] = (torch.float16, (rows,))
    return tensors


def _numbers_layout(name: str, stored: str, rows: int, groups: int, kinds: int) -> Layout:
    if stored == "none":
        return {}
    tensors: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
        f"{name}s": (STORED[stored], (rows, groups, kinds))
    }
    if stored in ("uint8", "int8"):
        tensors[f"{name}_unit"] = (torch.float16, (rows, kinds))
    return tensors


def layout_nbytes(tensors: Layout) -> int:
    """Bytes of a layout, without the tensors whose size is not in it."""
    return sum(prod(size or 0 for size in shape) * dtype.itemsize for dtype, shape in tensors.values())


def checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    settings = known_settings(packed, "planes", SETTINGS)
    rows, columns = packed.shape
    check_integer("salient_columns", settings["salient_columns"], 0, columns)
    check_integer("tail", settings["tail"], 0, rows * columns)
    check_integer("tail_rice", settings["tail_rice"], 0, bits.RICE_MAX if settings["tail"] else 0)
    _check_kinds(
        settings["parts"],
        settings["salient_parts"],
        settings["salient_columns"],
        settings["group_size"],
        settings["exponent"],
        columns,
    )
    check_boolean("column_scales", settings["column_scales"])
    check_choice("scales", settings["scales"], list(STORED))
    check_choice("means", settings["means"], [*STORED, "none"])
    _check_tail_kinds(settings["tail"], settings["parts"], settings["salient_parts"])
    return settings


def check_weight(weight: PlanesWeight) -> None:
    """ValueError, naming the field, for any weight that `planes` cannot hold."""
    require(
        weight.signs.dim() == 2 and weight.signs.numel() > 0,
        f"'signs' is {list(weight.signs.shape)}; needs (out, in), each at least 1",
    )
    rows, columns = weight.signs.shape
    for name in ("signs", "partition", "second_signs"):
        check_tensor(name, getattr(weight, name), torch.bool, (rows, columns))
    check_tensor("salient", weight.salient, torch.bool, (columns,))
    _check_kinds(
        weight.parts,
        weight.salient_parts,
        int(weight.salient.sum()),
        weight.group_size,
        weight.exponent,
        columns,
    )
    _check_planes(weight)
    _check_numbers(weight)
    _check_tail(weight)


def _check_kinds(
    parts: Any, salient_parts: Any, salient: int, group_size: Any, exponent: Any, columns: int
) -> None:
    check_integer("parts", parts, 1, 2)
    check_integer("salient_parts", salient_parts, 0, 2)
    check_integer("group_size", group_size, 1, columns)
    check_integer("exponent", exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    require(
        (salient_parts > 0) == (salient > 0),
        f"'salient_parts' is {salient_parts} with {salient} salient columns; needs 0 exactly when there is"
        " none",
    )


def _check_planes(weight: PlanesWeight) -> None:
    """No bit is set where the file has no place for it."""
    unparted = torch.where(weight.salient, weight.salient_parts < 2, weight.parts == 1)
    require(
        not _any_in(weight.partition, unparted), "'partition' must be false in columns that have one part"
    )
    require(
        not _any_in(weight.second_signs, ~weight.salient),
        "'second_signs' must be false outside the salient columns",
    )


def _any_in(plane: Tensor, columns: Tensor) -> bool:
    """Whether a plane has a bit set in some columns (in,) bool. Of an absent plane, one bit that is expanded,
    only the bit is read.
    """
    whole = plane if any(plane.stride()) else plane[:1, :1]
    return bool(whole.any()) and bool(plane[:, columns].any())


def _check_numbers(weight: PlanesWeight) -> None:
    rows, columns = weight.shape
    groups, count = -(-columns // weight.group_size), scale_count(weight.parts, weight.salient_parts)
    _check_shape("scales", weight.scales, (rows, groups, count))
    if weight.means is not None:
        _check_shape("means", weight.means, (rows, groups, weight.parts + weight.salient_parts))
    if weight.column_scales.numel():
        check_tensor("column_scales", weight.column_scales, torch.float16, (count, columns))
        require(bool(weight.column_scales.isfinite().all()), "'column_scales' holds NaN or infinity")
        elsewhere = weight.column_scales[
            ~columns_of_scales(weight.salient, weight.parts, weight.salient_parts)
        ]
        require(
            not bool(elsewhere.view(torch.int16).any()),
            "'column_scales' must be 0 in columns of the other kind",
        )
    else:
        check_tensor("column_scales", weight.column_scales, torch.float16, (0, 0))
    _check_size(weight)


def _check_shape(name: str, numbers: Numbers, shape: tuple[int, int, int]) -> None:
    require(
        tuple(numbers.stored.shape) == shape, f"'{name}' is {list(numbers.stored.shape)}; needs {list(shape)}"
    )


def columns_of_scales(salient: Tensor, parts: int, salient_parts: int) -> Tensor:
    """(S, in) bool: in which columns each scale is used."""
    return torch.cat([(~salient).expand(parts, -1), salient.expand(2 * salient_parts, -1)])


def _check_size(weight: PlanesWeight) -> None:
    """The magnitudes of a mean and its scales, added up in the order of `dequantize`, must not overflow
    float32. Then no weight overflows, for any signs.
    """
    factor = 2.0**weight.exponent
    scales = weight.scales.expand().abs() * factor
    require(bool(scales.isfinite().all()), "'scales' times 2^exponent overflows float32")
    if weight.column_scales.numel():
        scales = scales * weight.column_scales.float().abs().amax(1)
    means = (
        torch.zeros((), device=scales.device)
        if weight.means is None
        else weight.means.expand().abs() * factor
    )
    ordinary, salient = scales[..., : weight.parts], scales[..., weight.parts :]
    if weight.means is not None:
        ordinary, first = ordinary + means[..., : weight.parts], means[..., weight.parts :]
    else:
        first = means
    total = first + salient[..., ::2] + salient[..., 1::2]
    require(
        bool(ordinary.isfinite().all() and total.isfinite().all()),
        "'scales' and 'means' and 'column_scales' times 2^exponent overflow float32",
    )


def _check_tail_kinds(tail: int, parts: int, salient_parts: int) -> None:
    require(
        not tail or (parts == 1 and salient_parts == 0),
        "a 'tail' is only for weights with one part and without salient columns",
    )


def _check_tail(weight: PlanesWeight) -> None:
    rows, columns = weight.shape
    positions, codes = weight.tail_positions, weight.tail_codes
    count = positions.numel()
    check_tensor("tail_positions", positions, torch.int64, (count,))
    check_tensor("tail_codes", codes, torch.uint8, (count,))
    for name in ("tail_scale", "tail_zero"):
        check_tensor(name, getattr(weight, name), torch.float16, (rows,) if count else (0,))
        require(bool(getattr(weight, name).isfinite().all()), f"'{name}' holds NaN or infinity")
    if not count:
        return
    _check_tail_kinds(count, weight.parts, weight.salient_parts)
    require(
        int(positions[0]) >= 0 and int(positions[-1]) < rows * columns,
        f"'tail_positions' must lie in 0 … {rows * columns - 1}",
    )
    require(bool((positions.diff() > 0).all()), "'tail_positions' must be ascending and unique")
    under = weight.signs[positions // columns, positions % columns]
    require(not bool(under.any()), "'signs' must be false under the tail")
    zero = weight.tail_zero.float()
    largest = (weight.tail_scale.float() * 2.0**weight.exponent).abs() * torch.maximum(
        zero.abs(), (255.0 - zero).abs()
    )
    require(
        bool(largest.isfinite().all()),
        "'tail_scale' times the distance of a code from 'tail_zero' overflows float32",
    )
