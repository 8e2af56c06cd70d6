"""The settings of a weight in `trellis`, and the rules of docs/format.md for them."""

from __future__ import annotations

import math
from typing import Any

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.checks import (
    check_boolean,
    check_choice,
    check_integer,
    known_settings,
    require,
)
from bivlm.formats.encoding.numbers import LARGEST_EXPONENT
from bivlm.formats.encoding.rotation import LARGEST_PRIME, LARGEST_SEED, can_rotate
from bivlm.formats.encoding.trellis_code import RUN, WINDOWS

SETTINGS = ["exponent", "fitted", "rotated", "seed", "window"]
OPTIONAL = {"blocks": 1, "first_column": 0}  # and what they are where they are left out
LAST_COLUMN = (1 << 31) - 1  # the largest `first_column`


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
