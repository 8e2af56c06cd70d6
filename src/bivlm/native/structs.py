"""The structures and constants of csrc/include/bivlm.h, in ctypes.

They repeat the definitions of the header. The library is therefore asked for every one of them when it is
loaded: `difference` says what does not agree.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from bivlm.formats.encoding import trellis_checks


class NumbersStruct(ctypes.Structure):
    """`bivlm_numbers`."""

    _fields_ = (("values", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("unit", ctypes.c_void_p))


class PlanesStruct(ctypes.Structure):
    """`bivlm_planes`."""

    _fields_ = (
        ("parts", ctypes.c_int32),
        ("salient_parts", ctypes.c_int32),
        ("salient", ctypes.c_void_p),
        ("partition", ctypes.c_void_p),
        ("partition_bytes", ctypes.c_int64),
        ("second_signs", ctypes.c_void_p),
        ("second_bytes", ctypes.c_int64),
        ("means", NumbersStruct),
        ("column_scales", ctypes.c_void_p),
        ("tail_start", ctypes.c_void_p),
        ("tail_step_start", ctypes.c_void_p),
        ("tail_steps", ctypes.c_void_p),
        ("tail_bits", ctypes.c_void_p),
        ("tail_scale", ctypes.c_void_p),
        ("tail_zero", ctypes.c_void_p),
    )


class WeightStruct(ctypes.Structure):
    """`bivlm_weight`. It keeps what `planes` points to alive."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("group_size", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("codes", ctypes.c_void_p),
        ("row_bytes", ctypes.c_int64),
        ("group_bytes", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("levels", ctypes.c_void_p),
        ("table_rows", ctypes.c_int64),
        ("alphabet", ctypes.c_int32),
        ("symmetric", ctypes.c_int32),
        ("scales", NumbersStruct),
        ("zero_kind", ctypes.c_int32),
        ("zeros", ctypes.c_void_p),
        ("column_scale", ctypes.c_void_p),
        ("tail_start", ctypes.c_void_p),
        ("tail_entries", ctypes.c_void_p),
        ("tail_wide", ctypes.c_int32),
        ("tail_levels", ctypes.c_void_p),
        ("tail_scale", ctypes.c_void_p),
        ("tail_values", ctypes.c_void_p),
        ("planes", ctypes.POINTER(PlanesStruct)),
    )


class ProductStruct(ctypes.Structure):
    """`bivlm_product`."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("y", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class TrellisStruct(ctypes.Structure):
    """`bivlm_trellis`."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("window", ctypes.c_int32),
        ("codes", ctypes.c_void_p),
        ("code_bytes", ctypes.c_int64),
        ("bits", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("table_stride", ctypes.c_int64),
        ("row_scale", ctypes.c_void_p),
        ("signs", ctypes.c_void_p),
        ("blocks", ctypes.c_int64),
    )


KIND_LEVELS, KIND_UNIFORM, KIND_PLANE = 0, 1, 2  # `kind` of a weight
ZEROS = {"middle": 0, "code": 1, "free": 2}  # `zero_kind`, by its name in the format
NO_NUMBERS = 0  # `dtype` of numbers that are not stored because all are 1
NUMBERS = {torch.float32: 1, torch.float16: 2, torch.uint8: 3, torch.int8: 4}  # `dtype` of stored numbers
PLANES_WORD = 64  # the column scales of a part are a multiple of so many
PLANES_LEAP = 255  # columns that a step of 0 in a tail leads on
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # of x, y, bias and unpacked weights

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "bivlm_numbers": NumbersStruct,
    "bivlm_planes": PlanesStruct,
    "bivlm_weight": WeightStruct,
    "bivlm_trellis": TrellisStruct,
    "bivlm_product": ProductStruct,
}
CONSTANTS = {
    "BIVLM_FLOAT32": DTYPES[torch.float32],
    "BIVLM_BFLOAT16": DTYPES[torch.bfloat16],
    "BIVLM_FLOAT16": DTYPES[torch.float16],
    "BIVLM_KIND_LEVELS": KIND_LEVELS,
    "BIVLM_KIND_UNIFORM": KIND_UNIFORM,
    "BIVLM_KIND_PLANE": KIND_PLANE,
    "BIVLM_NUMBERS_NONE": NO_NUMBERS,
    "BIVLM_NUMBERS_FLOAT32": NUMBERS[torch.float32],
    "BIVLM_NUMBERS_FLOAT16": NUMBERS[torch.float16],
    "BIVLM_NUMBERS_UINT8": NUMBERS[torch.uint8],
    "BIVLM_NUMBERS_INT8": NUMBERS[torch.int8],
    "BIVLM_ZERO_MIDDLE": ZEROS["middle"],
    "BIVLM_ZERO_CODE": ZEROS["code"],
    "BIVLM_ZERO_FREE": ZEROS["free"],
    "BIVLM_PLANES_WORD": PLANES_WORD,
    "BIVLM_PLANES_LEAP": PLANES_LEAP,
    "BIVLM_TRELLIS_STRIP": trellis_checks.STRIP,
    "BIVLM_TRELLIS_ROWS": trellis_checks.HELD,
    "BIVLM_TRELLIS_RUN": trellis_checks.RUN,
    "BIVLM_TRELLIS_LEAD": trellis_checks.LEAD,
    "BIVLM_TRELLIS_MOST_BITS": trellis_checks.MOST_BITS,
}


def difference(layout: Callable[[str], int]) -> str:
    """The first difference between a library's header and this file; empty if there is none.

    `layout` is the library's bivlm_layout: a name to a size, an offset or a value, -1 for an unknown name.
    """
    for name, struct in STRUCTS.items():
        if (size := layout(name)) != ctypes.sizeof(struct):
            return f"its {name} has {size} bytes, and this bivlm's has {ctypes.sizeof(struct)}"
        for field, *_ in struct._fields_:
            here = getattr(struct, field).offset
            if (there := layout(f"{name}.{field}")) != here:
                return f"its {name}.{field} is at byte {there}, and this bivlm's at {here}"
    for name, here in CONSTANTS.items():
        if (there := layout(name)) != here:
            return f"its {name} is {there}, and this bivlm's is {here}"
    return ""
