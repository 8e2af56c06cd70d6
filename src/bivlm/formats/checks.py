"""The rules of every format for its bytes, one table: docs/format.md in code. They hold torch's tensors and
numpy's arrays, and need no torch (but for the products of `lowrank`), so that a folder is checked quickly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import lowrank_checks, row_checks
from bivlm.formats.encoding.checks import blaming
from bivlm.formats.encoding.part_checks import INSIDE

CHECKS: dict[str, Callable[[PackedTensor], None]] = {
    **INSIDE,
    "lowrank": lowrank_checks.check_packed,
    "rows": row_checks.check_packed,
}


def check_packed(packed: PackedTensor, format_: str) -> None:
    """ValueError, naming the format, for anything that its `encode` cannot have written: settings, shapes,
    and every rule of docs/format.md for the bytes.
    """
    with blaming(format_), np.errstate(all="ignore"):
        CHECKS[format_](packed)
