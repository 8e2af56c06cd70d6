"""The rules of docs/format.md for a weight in `planes`, of tensors or numpy arrays, and the tensors that
store it in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import streams
from bivlm.formats.encoding.arrays import Array, any_bit, as_float32, is_finite, largest, own_float16
from bivlm.formats.encoding.checks import (
    ITEM_BYTES,
    Layout,
    blaming,
    check_boolean,
    check_choice,
    check_integer,
    check_tensor,
    check_tensors,
    known_settings,
    require,
)
from bivlm.formats.encoding.number_checks import LARGEST_EXPONENT, check_numbers, expanded
from bivlm.formats.encoding.positions import unpack_positions

if TYPE_CHECKING:
    from torch import Tensor

    from bivlm.formats.encoding.numbers import Numbers
    from bivlm.formats.planes import PlanesWeight

STORED = ("float32", "float16", "uint8", "int8")
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
        return {"blocks": ("uint8", (rows, groups, 2 + settings["group_size"] // 8))}
    parts, salient_parts, salient, tail = (
        settings[name] for name in ("parts", "salient_parts", "salient_columns", "tail")
    )
    ordinary = columns - salient
    tensors: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "signs": ("uint8", (rows, streams.stream_bytes(columns, 1)))
    }
    if parted := (parts == 2) * ordinary + (salient_parts == 2) * salient:
        tensors["partition"] = ("uint8", (rows, streams.stream_bytes(parted, 1)))
    if salient:
        tensors["salient"] = ("uint8", (streams.stream_bytes(columns, 1),))
        tensors["second_signs"] = ("uint8", (rows, streams.stream_bytes(salient, 1)))
    tensors |= _numbers_layout("scale", settings["scales"], rows, groups, scale_count(parts, salient_parts))
    tensors |= _numbers_layout("mean", settings["means"], rows, groups, parts + salient_parts)
    if settings["column_scales"]:
        tensors["column_scales"] = ("float16", (parts * ordinary + 2 * salient_parts * salient,))
    if tail:
        tensors["tail_low"] = ("uint8", (streams.stream_bytes(tail, settings["tail_rice"]),))
        tensors["tail_high"] = ("uint8", (None,))
        tensors["tail_bits"] = ("uint8", (streams.stream_bytes(tail, 7),))
        tensors["tail_scale"] = tensors["tail_zero"] = ("float16", (rows,))
    return tensors


def _numbers_layout(name: str, stored: str, rows: int, groups: int, kinds: int) -> Layout:
    if stored == "none":
        return {}
    tensors: dict[str, tuple[str, tuple[int | None, ...]]] = {f"{name}s": (stored, (rows, groups, kinds))}
    if stored in ("uint8", "int8"):
        tensors[f"{name}_unit"] = ("float16", (rows, kinds))
    return tensors


def layout_nbytes(tensors: Layout) -> int:
    """Bytes of a layout, without the tensors whose size is not in it."""
    return sum(prod(size or 0 for size in shape) * ITEM_BYTES[dtype] for dtype, shape in tensors.values())


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `PlanesWeight.encode` cannot have written. No plane is expanded."""
    settings, tensors, columns = checked(packed), packed.tensors, packed.shape[1]
    unit = tensors.get("scale_unit")
    if is_plain(settings, columns):
        scales = own_float16(tensors["blocks"][..., :2])
        with blaming("'blocks'"):
            check_numbers(scales, unit)
        check_size(scales, None, None, 1, 0, 0)
        return
    scales, means, mean_unit = tensors["scales"], tensors.get("means"), tensors.get("mean_unit")
    with blaming("'scales'"):
        check_numbers(scales, unit)
    if means is not None:
        with blaming("'means'"):
            check_numbers(means, mean_unit)
    _check_plane_streams(tensors, columns, settings)
    positions = _tail_positions(packed, settings)
    column_scales, widest = tensors.get("column_scales"), None
    if column_scales is not None:
        require(is_finite(column_scales), "'column_scales' holds NaN or infinity")
        widest = _widest(column_scales, columns, settings)
    check_size(
        expanded(scales, unit),
        None if means is None else expanded(means, mean_unit),
        widest,
        settings["parts"],
        settings["salient_parts"],
        settings["exponent"],
    )
    if positions is not None:
        check_tail_numbers(tensors["tail_scale"], tensors["tail_zero"], settings["exponent"])


def _check_plane_streams(tensors: Mapping[str, Array], columns: int, settings: Mapping[str, Any]) -> None:
    salient = settings["salient_columns"]
    if salient:
        with blaming("'salient'"):
            found = int(streams.symbols(tensors["salient"][None], 2, columns).sum())
        require(found == salient, f"'salient' names {found} columns where 'salient_columns' is {salient}")
    parted = (settings["parts"] == 2) * (columns - salient) + (settings["salient_parts"] == 2) * salient
    for name, count in {"signs": columns, "partition": parted, "second_signs": salient}.items():
        if count:
            with blaming(f"'{name}'"):
                streams.check_stream(tensors[name], 1, count)


def _tail_positions(packed: PackedTensor, settings: Mapping[str, Any]) -> Array | None:
    """The positions of the tail, if there is one, after the checks of its streams."""
    tensors, count = packed.tensors, settings["tail"]
    if not count:
        return None
    positions = unpack_positions(
        tensors["tail_low"], tensors["tail_high"], count, settings["tail_rice"], prod(packed.shape)
    )
    with blaming("'tail_bits'"):
        streams.check_stream(tensors["tail_bits"][None], 7, count)
    return positions


def _widest(column_scales: Array, columns: int, settings: Mapping[str, Any]) -> list[float]:
    """The largest magnitude of the stored column scales of each scale; 0 where it has no column."""
    salient, found, start = settings["salient_columns"], [], 0
    lengths = [columns - salient] * settings["parts"] + [salient] * (2 * settings["salient_parts"])
    for length in lengths:
        found.append(float(largest(column_scales[start : start + length])) if length else 0.0)
        start += length
    return found


def checked(packed: PackedTensor) -> dict[str, Any]:
    """The settings; ValueError unless they match the dtype and shape of every tensor. The contents of the
    tensors are not read.
    """
    settings = checked_settings(packed)
    check_tensors(packed.tensors, layout(packed.shape, settings))
    return settings


def checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    settings = known_settings(packed, "planes", SETTINGS)
    rows, columns = packed.shape
    check_integer("salient_columns", settings["salient_columns"], 0, columns)
    check_integer("tail", settings["tail"], 0, rows * columns)
    check_integer("tail_rice", settings["tail_rice"], 0, streams.RICE_MAX if settings["tail"] else 0)
    _check_kinds(
        settings["parts"],
        settings["salient_parts"],
        settings["salient_columns"],
        settings["group_size"],
        settings["exponent"],
        columns,
    )
    check_boolean("column_scales", settings["column_scales"])
    check_choice("scales", settings["scales"], STORED)
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
        check_tensor(name, getattr(weight, name), "bool", (rows, columns))
    check_tensor("salient", weight.salient, "bool", (columns,))
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
    import torch

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
        check_tensor("column_scales", weight.column_scales, "float16", (count, columns))
        require(is_finite(weight.column_scales), "'column_scales' holds NaN or infinity")
        elsewhere = weight.column_scales[
            ~columns_of_scales(weight.salient, weight.parts, weight.salient_parts)
        ]
        require(
            not any_bit(elsewhere),
            "'column_scales' must be 0 in columns of the other kind",
        )
    else:
        check_tensor("column_scales", weight.column_scales, "float16", (0, 0))
    widest = weight.column_scales.float().abs().amax(1).tolist() if weight.column_scales.numel() else None
    means = None if weight.means is None else weight.means.expand()
    scales = weight.scales.expand()
    check_size(scales, means, widest, weight.parts, weight.salient_parts, weight.exponent)


def _check_shape(name: str, numbers: Numbers, shape: tuple[int, int, int]) -> None:
    require(
        tuple(numbers.stored.shape) == shape, f"'{name}' is {list(numbers.stored.shape)}; needs {list(shape)}"
    )


def columns_of_scales(salient: Tensor, parts: int, salient_parts: int) -> Tensor:
    """(S, in) bool: in which columns each scale is used."""
    import torch

    return torch.cat([(~salient).expand(parts, -1), salient.expand(2 * salient_parts, -1)])


def check_size(
    scales: Array,
    means: Array | None,
    widest: Sequence[float] | None,
    parts: int,
    salient_parts: int,
    exponent: int,
) -> None:
    """The magnitudes of a mean and its scales, added up in the order of `dequantize`, must not overflow
    float32. Then no weight overflows, for any signs. `widest` is the largest column scale of each scale.
    """
    factor = 2.0**exponent

    def scale(kind: int) -> Array:
        value = abs(as_float32(scales[..., kind])) * factor
        return value if widest is None else value * widest[kind]

    def mean(kind: int) -> Array:
        return 0.0 if means is None else abs(as_float32(means[..., kind])) * factor

    require(is_finite(as_float32(scales) * factor), "'scales' times 2^exponent overflows float32")
    ordinary = (scale(part) + mean(part) for part in range(parts))
    salient = (
        mean(parts + part) + scale(parts + 2 * part) + scale(parts + 2 * part + 1)
        for part in range(salient_parts)
    )
    require(
        all(is_finite(total) for total in (*ordinary, *salient)),
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
    check_tensor("tail_positions", positions, "int64", (count,))
    check_tensor("tail_codes", codes, "uint8", (count,))
    for name in ("tail_scale", "tail_zero"):
        check_tensor(name, getattr(weight, name), "float16", (rows,) if count else (0,))
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
    check_tail_numbers(weight.tail_scale, weight.tail_zero, weight.exponent)


def check_tail_numbers(tail_scale: Array, tail_zero: Array, exponent: int) -> None:
    for name, numbers in (("tail_scale", tail_scale), ("tail_zero", tail_zero)):
        require(is_finite(numbers), f"'{name}' holds NaN or infinity")
    scale, zero = abs(as_float32(tail_scale) * 2.0**exponent), as_float32(tail_zero)
    require(
        is_finite(scale * abs(zero)) and is_finite(scale * abs(255.0 - zero)),
        "'tail_scale' times the distance of a code from 'tail_zero' overflows float32",
    )
