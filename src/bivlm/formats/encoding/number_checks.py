"""The rules for scales and means (numbers.py), of tensors or numpy arrays."""

from __future__ import annotations

from bivlm.formats.encoding.arrays import Array, as_float32, dtype_name, is_finite, is_float

DTYPES = ("float32", "float16", "uint8", "int8")
EIGHT_BITS = ("uint8", "int8")  # times a unit for each row
LARGEST_EXPONENT = 126


def check_numbers(stored: Array, unit: Array | None) -> None:
    """ValueError unless `stored` (out, G, K) and its `unit` (out, K) are those of `Numbers`; None stands for
    no unit.
    """
    dtype = dtype_name(stored.dtype)
    if stored.ndim != 3 or dtype not in DTYPES:
        raise ValueError(
            f"numbers are (out, G, K) float32, float16, uint8 or int8, not {stored.dtype}"
            f" {list(stored.shape)}"
        )
    needed = (stored.shape[0], stored.shape[2]) if dtype in EIGHT_BITS else (0,)
    found = (0,) if unit is None else tuple(unit.shape)
    if (unit is not None and dtype_name(unit.dtype) != "float16") or found != needed:
        raise ValueError(
            f"the unit of {stored.dtype} numbers is float16 {list(needed)}, not"
            f" {None if unit is None else unit.dtype} {list(found)}"
        )
    if unit is not None and (not is_finite(unit) or bool((unit < 0).any())):
        raise ValueError("a unit is negative or not finite")
    if is_float(stored) and not is_finite(stored):
        raise ValueError("a number is not finite")


def expanded(stored: Array, unit: Array | None) -> Array:
    """The values (out, G, K) in float32."""
    values = as_float32(stored)
    return values * as_float32(unit)[:, None] if dtype_name(stored.dtype) in EIGHT_BITS else values
