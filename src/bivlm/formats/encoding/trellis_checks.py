"""The rules of docs/format.md for a weight in `trellis`, of tensors or numpy arrays: its settings, its
streams, its scales.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.arrays import Array, count, largest
from bivlm.formats.encoding.checks import (
    Layout,
    check_boolean,
    check_choice,
    check_density,
    check_integer,
    check_tensor,
    check_tensors,
    known_settings,
    require,
)
from bivlm.formats.encoding.number_checks import LARGEST_EXPONENT

STRIP = 64  # rows of a strip; those of the last are rounded up to a multiple of HELD
HELD = 16
LEAD = 2  # bytes before the stream of a strip, zeros unless columns were cut off before it: the first windows
# reach back into them
MOST_BITS = 4
RUN = 16  # columns that share their K
WINDOWS = (8, 12, 16)
LARGEST_SEED = (1 << 63) - 1
LARGEST_PRIME = 1024  # no prime factor of a rotated width is larger: its transform takes prime² numbers

SETTINGS = ["exponent", "fitted", "rotated", "seed", "window"]
OPTIONAL = {"blocks": 1, "first_column": 0}  # and what they are where they are left out
LAST_COLUMN = (1 << 31) - 1  # the largest `first_column`


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `TrellisWeight.encode` cannot have written. Nothing is expanded."""
    settings, tensors = checked(packed), packed.tensors
    fitted = settings.pop("fitted")
    table = tensors["table"] if fitted else None
    check_fields(packed.shape[1], tensors["codes"], tensors["bits"], tensors["row_scale"], table, **settings)


def checked(packed: PackedTensor) -> dict[str, Any]:
    """The settings; ValueError unless they match the dtype and shape of every tensor. The contents of the
    tensors, and the length of the streams, are not read.
    """
    settings = checked_settings(packed)
    check_tensors(packed.tensors, _layout(packed.shape, settings))
    return settings


def check_fields(
    columns: Any, codes: Array, run_bits: Array, row_scale: Array, table: Array | None, **numbers: Any
) -> None:
    """ValueError, naming the field, for any weight that `trellis` cannot hold. `table` is None, or empty, for
    the standard one; `numbers` are the settings but `fitted`.
    """
    require(type(columns) is int and columns >= 1, f"'columns' is {columns!r}; needs an integer, at least 1")
    check_numbers(columns, **numbers)
    check_tensor("row_scale", row_scale, "float16", (None,))
    require(len(row_scale) >= 1, "'row_scale' is empty")
    check_tensor("codes", codes, "uint8", (None,))
    check_tensor("bits", run_bits, "uint8", (-(-columns // RUN),))
    tensors = [codes, run_bits, row_scale]
    if table is not None:
        check_tensor("table", table, "int8", (MOST_BITS, 1 << numbers["window"]) if count(table) else (0, 0))
        tensors.append(table)
    shape = (len(row_scale), columns)
    check_density(shape, sum(tensor.nbytes for tensor in tensors))
    _check_streams(codes, run_bits, shape, numbers["first_column"] == 0)
    most = float(largest(row_scale)) * 2.0 ** (numbers["exponent"] + 2) * columns**0.5
    require(
        most < float(np.finfo(np.float32).max),
        "'row_scale' is not finite, or overflows float32 times 2^exponent",
    )


def _check_streams(codes: Array, run_bits: Array, shape: tuple[int, int], whole: bool) -> None:
    """Checks that K is in range, and that each stream has the right length and, unless columns were cut off
    before it, begins with zeros.
    """
    require(int(run_bits.max()) <= MOST_BITS, f"'bits' holds {int(run_bits.max())}; at most {MOST_BITS}")
    row_bits = RUN * int(run_bits.sum()) - int(run_bits[-1]) * (RUN * len(run_bits) - shape[1])
    held = strips(shape[0])
    needed = LEAD * len(held) + row_bits * sum(held) // 8
    require(len(codes) == needed, f"'codes' has {len(codes)} bytes; these bits take {needed}")
    if not whole:
        return
    size, full = LEAD + row_bits * STRIP // 8, shape[0] // STRIP
    leads = codes[: full * size].reshape(full, size)[:, :LEAD], codes[full * size : full * size + LEAD]
    require(
        not any(bool(lead.any()) for lead in leads),
        "a bit before the stream of a strip is not zero in 'codes'",
    )


def strips(rows: int) -> list[int]:
    """The held rows of every strip."""
    whole, rest = divmod(rows, STRIP)
    return [STRIP] * whole + ([-(-rest // HELD) * HELD] if rest else [])


def _layout(shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
    """Dtype and shape of every tensor."""
    rows, columns = shape
    layout: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "codes": ("uint8", (None,)),
        "bits": ("uint8", (-(-columns // RUN),)),
        "row_scale": ("float16", (rows,)),
    }
    return layout | ({"table": ("int8", (MOST_BITS, 1 << settings["window"]))} if settings["fitted"] else {})


def checked_settings(packed: PackedTensor) -> dict[str, Any]:
    """The settings, after a check of their types and ranges and of the shape."""
    settings = known_settings(packed, "trellis", SETTINGS, list(OPTIONAL))
    check_boolean("fitted", settings["fitted"])
    for name, usual in OPTIONAL.items():
        require(settings.get(name) != usual, f"'{name}' is {usual}; it must be left out then")
    settings = OPTIONAL | settings
    check_numbers(packed.shape[1], **{name: settings[name] for name in settings if name != "fitted"})
    return settings


def check_numbers(
    columns: int, window: Any, rotated: Any, seed: Any, exponent: Any, blocks: Any, first_column: Any
) -> None:
    check_choice("window", window, WINDOWS)
    check_boolean("rotated", rotated)
    require(type(seed) is int and 0 <= seed <= LARGEST_SEED, f"'seed' is {seed!r}; needs 0 … 2^63 - 1")
    check_integer("exponent", exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    check_integer("blocks", blocks, 1, columns if rotated else 1)
    width = columns // blocks
    require(
        blocks == 1 or (columns % blocks == 0 and width % RUN == 0),
        f"'blocks' is {blocks}; {columns} columns have no {blocks} equal blocks of a multiple of {RUN}"
        " columns",
    )
    require(
        not rotated or can_rotate(width),
        f"'rotated' is set for {width} columns, which have a prime factor above {LARGEST_PRIME}",
    )
    check_integer("first_column", first_column, 0, LAST_COLUMN)
    step = math.lcm(RUN, width) if rotated else RUN
    require(first_column % step == 0, f"'first_column' is {first_column}; needs a multiple of {step}")


def can_rotate(columns: int) -> bool:
    """Whether every prime factor of a width is small enough for its transform (`LARGEST_PRIME`)."""
    for prime in range(2, LARGEST_PRIME + 1):
        while columns % prime == 0:
            columns //= prime
    return columns == 1
