"""The rules of docs/format.md for a weight in `levels`, of tensors or numpy arrays, and the tensors that
store it in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import streams
from bivlm.formats.encoding.arrays import Array, any_bit, is_ascending, is_finite, largest, product_is_finite
from bivlm.formats.encoding.checks import (
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
from bivlm.formats.encoding.positions import unpack_positions

if TYPE_CHECKING:
    from bivlm.formats.levels import LevelsWeight

SETTINGS = ["alphabet", "group_size", "symmetric", "tail", "tail_rice"]
TAIL_KIND = "tail_kind"  # a setting of weights whose tail entries have values of their own, and of no others
VALUES = "values"


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `LevelsWeight.encode` cannot have written. Only the tail is expanded."""
    settings, tensors = checked(packed), packed.tensors
    with blaming("'codes'"):
        streams.check_symbols(tensors["codes"], settings["alphabet"], packed.shape[1])
    scale = tensors["scale"].reshape(())
    check_levels(tensors["levels"], scale, settings["symmetric"])
    if TAIL_KIND in settings:
        check_tail_values(tensors["tail_values"], scale)
    elif settings["tail"]:
        check_tail_tables(tensors["tail_levels"], tensors["tail_scale"], scale)
    if settings["tail"]:
        _check_tail_streams(packed)


def checked(packed: PackedTensor) -> dict[str, Any]:
    """The settings; ValueError unless they match the dtype and shape of every tensor. The contents of the
    tensors are not read.
    """
    settings = _checked_settings(packed)
    check_tensors(packed.tensors, _layout(packed.shape, settings))
    (rows, columns), alphabet = packed.shape, settings["alphabet"]
    length = alphabet // 2 if settings["symmetric"] else alphabet
    _check_table_shape(packed.tensors["levels"], rows, -(-columns // settings["group_size"]), length)
    return settings


def tail_positions(packed: PackedTensor) -> Array:
    """The positions of the tail of a packed weight that has one: (n,) int64, ascending."""
    tensors, settings, (rows, columns) = packed.tensors, packed.settings, packed.shape
    return unpack_positions(
        tensors["tail_low"],
        tensors["tail_high"],
        int(settings["tail"]),
        int(settings["tail_rice"]),
        rows * columns,
    )


def tail_code_bits_outside(alphabet: int) -> int:
    """How many of a tail code's two bits do not fit the dense code at its place: they go to `tail_bits`."""
    return 0 if alphabet >= 4 else 1


def check_dense(weight: LevelsWeight) -> None:
    _check_numbers(weight.alphabet, weight.symmetric)
    require(
        weight.codes.dim() == 2 and weight.codes.numel() > 0,
        f"'codes' is {list(weight.codes.shape)}; needs (out, in), each at least 1",
    )
    rows, columns = weight.codes.shape
    check_tensor("codes", weight.codes, "uint8", (rows, columns))
    require(
        int(weight.codes.max()) < weight.alphabet,
        f"'codes' holds {int(weight.codes.max())}; the alphabet is {weight.alphabet}",
    )
    check_integer("group_size", weight.group_size, 1, columns)
    length = weight.alphabet // 2 if weight.symmetric else weight.alphabet
    _check_table_shape(weight.levels, rows, -(-columns // weight.group_size), length)
    check_tensor("scale", weight.scale, "float32", ())
    check_levels(weight.levels, weight.scale, weight.symmetric)


def _check_table_shape(levels: Array, rows: int, groups: int, length: int) -> None:
    check_tensor("levels", levels, "float16", (rows if levels.shape[:1] == (rows,) else 1, groups, length))


def check_levels(levels: Array, scale: Array, symmetric: bool) -> None:
    require(is_finite(levels), "'levels' holds NaN or infinity")
    require(is_ascending(levels), "'levels' must be ascending along the last dimension")
    require(
        not symmetric or bool((levels >= 0).all()),
        "'levels' of a symmetric weight are magnitudes; one is below 0",
    )
    require(
        bool(scale > 0) and is_finite(scale),
        f"'scale' is {float(scale)}; needs a finite number above 0",
    )
    require(
        product_is_finite(largest(levels), scale),
        "'scale' times the largest of 'levels' overflows float32",
    )


def check_tail(weight: LevelsWeight) -> None:
    rows, columns = weight.shape
    positions, count = weight.tail_positions, weight.tail_positions.numel()
    valued = weight.tail_values.numel() > 0
    coded = 0 if valued else count
    check_tensor("tail_positions", positions, "int64", (count,))
    check_tensor("tail_values", weight.tail_values, "float16", (count if valued else 0,))
    check_tensor("tail_codes", weight.tail_codes, "uint8", (coded,))
    check_tensor("tail_levels", weight.tail_levels, "float16", (4,))
    check_tensor("tail_scale", weight.tail_scale, "float16", (rows,) if coded else (0,))
    require(
        coded > 0 or not any_bit(weight.tail_levels),
        "'tail_levels' must be zeros when there are no tail codes",
    )
    if not count:
        return
    require(
        int(positions[0]) >= 0 and int(positions[-1]) < rows * columns,
        f"'tail_positions' must lie in 0 … {rows * columns - 1}",
    )
    require(bool((positions.diff() > 0).all()), "'tail_positions' must be ascending and unique")
    require(not bool(weight.codes.reshape(-1)[positions].any()), "'codes' must be 0 under the tail")
    if valued:
        check_tail_values(weight.tail_values, weight.scale)
        return
    require(
        int(weight.tail_codes.max()) <= 3, f"'tail_codes' holds {int(weight.tail_codes.max())}; at most 3"
    )
    check_tail_tables(weight.tail_levels, weight.tail_scale, weight.scale)


def check_tail_values(values: Array, scale: Array) -> None:
    require(is_finite(values), "'tail_values' holds NaN or infinity")
    require(
        product_is_finite(largest(values), scale),
        "'scale' times the largest of 'tail_values' overflows float32",
    )


def check_tail_tables(levels: Array, row_scale: Array, scale: Array) -> None:
    require(
        is_finite(levels) and is_ascending(levels),
        "'tail_levels' must be finite and ascending",
    )
    require(
        is_finite(row_scale) and bool((row_scale >= 0).all()),
        "'tail_scale' must be finite and not below 0",
    )
    require(
        product_is_finite(largest(row_scale), scale, largest(levels)),
        "'scale' times the largest of 'tail_scale' and 'tail_levels' overflows float32",
    )


def _check_numbers(alphabet: Any, symmetric: Any) -> None:
    check_integer("alphabet", alphabet, 2, 16)
    check_boolean("symmetric", symmetric)
    require(not symmetric or alphabet % 2 == 0, f"a symmetric weight has an even alphabet, not {alphabet}")


def _checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    valued = isinstance(packed.settings, Mapping) and TAIL_KIND in packed.settings
    settings = known_settings(packed, "levels", [*SETTINGS, TAIL_KIND] if valued else SETTINGS)
    _check_numbers(settings["alphabet"], settings["symmetric"])
    rows, columns = packed.shape
    check_integer("group_size", settings["group_size"], 1, columns)
    check_integer("tail", settings["tail"], 1 if valued else 0, rows * columns)
    if valued:
        check_choice(TAIL_KIND, settings[TAIL_KIND], [VALUES])
    check_integer("tail_rice", settings["tail_rice"], 0, streams.RICE_MAX if settings["tail"] else 0)
    return settings


def _layout(shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
    """Dtype and shape of every tensor that the settings require."""
    (rows, columns), alphabet = shape, settings["alphabet"]
    tensors: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "codes": ("uint8", (rows, streams.symbols_bytes(columns, alphabet))),
        "levels": ("float16", (None, None, None)),  # R is the file's choice: see `checked`
        "scale": ("float32", (1,)),
    }
    if tail := settings["tail"]:
        tensors["tail_low"] = ("uint8", (streams.stream_bytes(tail, settings["tail_rice"]),))
        tensors["tail_high"] = ("uint8", (None,))
    if TAIL_KIND in settings:
        tensors["tail_values"] = ("float16", (tail,))
    elif tail:
        tensors["tail_levels"] = ("float16", (4,))
        tensors["tail_scale"] = ("float16", (rows,))
        if tail_code_bits_outside(alphabet):
            tensors["tail_bits"] = ("uint8", (streams.stream_bytes(tail, 1),))
    return tensors


def _check_tail_streams(packed: PackedTensor) -> None:
    """The positions, the symbols of `codes` under them, and the bits next to these."""
    tensors, columns, alphabet = packed.tensors, packed.shape[1], int(packed.settings["alphabet"])
    positions = tail_positions(packed)
    found = streams.symbols_at(tensors["codes"], alphabet, positions // columns, positions % columns)
    coded = TAIL_KIND not in packed.settings
    outside = tail_code_bits_outside(alphabet)
    largest = 3 >> outside if coded else 0
    require(
        int(found.max()) <= largest, f"'codes' is {int(found.max())} under a tail entry; at most {largest}"
    )
    if coded and outside:
        with blaming("'tail_bits'"):
            streams.check_stream(tensors["tail_bits"][None], 1, len(positions))
