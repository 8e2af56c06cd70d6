"""The rules of docs/format.md for a weight in `raw`, of tensors or numpy arrays."""

from __future__ import annotations

from typing import Any

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.arrays import Array, is_finite
from bivlm.formats.encoding.checks import check_choice, check_tensors, known_settings, require

STORED = ("bfloat16", "float16")


def check_packed(packed: PackedTensor) -> None:
    """ValueError for anything that `RawWeight.encode` cannot have written."""
    settings: dict[str, Any] = known_settings(packed, "raw", ["stored"])
    check_choice("stored", settings["stored"], STORED)
    check_tensors(packed.tensors, {"values": (settings["stored"], tuple(packed.shape))})
    check_values(packed.tensors["values"])


def check_values(values: Array) -> None:
    require(is_finite(values), "'values' holds NaN or infinity")
