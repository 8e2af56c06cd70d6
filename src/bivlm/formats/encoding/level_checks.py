"""The rules of docs/format.md for a weight in `levels`, and the tensors that store it in a file."""

from __future__ import annotations

from collections.abc import Mapping
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
    check_tensors,
    known_settings,
    require,
)

if TYPE_CHECKING:
    from bivlm.formats.levels import LevelsWeight

SETTINGS = ["alphabet", "group_size", "symmetric", "tail", "tail_rice"]
TAIL_KIND = "tail_kind"  # a setting of weights whose tail entries have values of their own, and of no others
VALUES = "values"


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
    check_tensor("codes", weight.codes, torch.uint8, (rows, columns))
    require(
        int(weight.codes.max()) < weight.alphabet,
        f"'codes' holds {int(weight.codes.max())}; the alphabet is {weight.alphabet}",
    )
    check_integer("group_size", weight.group_size, 1, columns)
    length = weight.alphabet // 2 if weight.symmetric else weight.alphabet
    _check_table_shape(weight.levels, rows, -(-columns // weight.group_size), length)
    check_tensor("scale", weight.scale, torch.float32, ())
    check_levels(weight.levels, weight.scale, weight.symmetric)


def _check_table_shape(levels: Tensor, rows: int, groups: int, length: int) -> None:
    check_tensor(
        "levels", levels, torch.float16, (rows if levels.shape[:1] == (rows,) else 1, groups, length)
    )


def check_levels(levels: Tensor, scale: Tensor, symmetric: bool) -> None:
    require(bool(levels.isfinite().all()), "'levels' holds NaN or infinity")
    require(bool((levels.diff(dim=-1) >= 0).all()), "'levels' must be ascending along the last dimension")
    require(
        not symmetric or bool((levels >= 0).all()),
        "'levels' of a symmetric weight are magnitudes; one is below 0",
    )
    require(
        bool(scale > 0) and bool(scale.isfinite()),
        f"'scale' is {float(scale)}; needs a finite number above 0",
    )
    require(
        bool((levels.float().abs().max() * scale).isfinite()),
        "'scale' times the largest of 'levels' overflows float32",
    )


def check_tail(weight: LevelsWeight) -> None:
    rows, columns = weight.shape
    positions, count = weight.tail_positions, weight.tail_positions.numel()
    valued = weight.tail_values.numel() > 0
    coded = 0 if valued else count
    check_tensor("tail_positions", positions, torch.int64, (count,))
    check_tensor("tail_values", weight.tail_values, torch.float16, (count if valued else 0,))
    check_tensor("tail_codes", weight.tail_codes, torch.uint8, (coded,))
    check_tensor("tail_levels", weight.tail_levels, torch.float16, (4,))
    check_tensor("tail_scale", weight.tail_scale, torch.float16, (rows,) if coded else (0,))
    require(
        coded > 0 or not weight.tail_levels.view(torch.int16).any(),
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


def check_tail_values(values: Tensor, scale: Tensor) -> None:
    require(bool(values.isfinite().all()), "'tail_values' holds NaN or infinity")
    require(
        bool((values.float().abs().max() * scale).isfinite()),
        "'scale' times the largest of 'tail_values' overflows float32",
    )


def check_tail_tables(levels: Tensor, row_scale: Tensor, scale: Tensor) -> None:
    require(
        bool(levels.isfinite().all()) and bool((levels.diff() >= 0).all()),
        "'tail_levels' must be finite and ascending",
    )
    require(
        bool(row_scale.isfinite().all()) and bool((row_scale >= 0).all()),
        "'tail_scale' must be finite and not below 0",
    )
    largest = row_scale.float().max() * scale * levels.float().abs().max()
    require(
        bool(largest.isfinite()),
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
    check_integer("tail_rice", settings["tail_rice"], 0, bits.RICE_MAX if settings["tail"] else 0)
    return settings


def _layout(shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
    """Dtype and shape of every tensor that the settings require."""
    (rows, columns), alphabet = shape, settings["alphabet"]
    tensors: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
        "codes": (torch.uint8, (rows, bits.symbols_bytes(columns, alphabet))),
        "levels": (torch.float16, (None, None, None)),  # R is the file's choice: see `checked`
        "scale": (torch.float32, (1,)),
    }
    if tail := settings["tail"]:
        tensors["tail_low"] = (torch.uint8, (bits.stream_bytes(tail, settings["tail_rice"]),))
        tensors["tail_high"] = (torch.uint8, (None,))
    if TAIL_KIND in settings:
        tensors["tail_values"] = (torch.float16, (tail,))
    elif tail:
        tensors["tail_levels"] = (torch.float16, (4,))
        tensors["tail_scale"] = (torch.float16, (rows,))
        if tail_code_bits_outside(alphabet):
            tensors["tail_bits"] = (torch.uint8, (bits.stream_bytes(tail, 1),))
    return tensors
