"""The native library: the C interface of csrc/bivlm_kernels.h and bivlm_trellis.h by ctypes. It is looked
for, loaded and checked once, when first needed.

    BIVLM_KERNEL      auto (the library where there is one), native (an error where there is none), reference
                      (never the library)
    BIVLM_CPU_LEVEL   portable, avx2, avx512 or neon: the instruction set to use, instead of the best that the
                      processor has
    BIVLM_LIBRARY     the file of another build, for those who work on the library

Without the library everything runs on kernels/reference.py. torch is imported first: library and torch then
share one OpenMP runtime.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch  # noqa: F401 - before the library, see above

import bivlm.native
from bivlm.errors import InputError

ABI = 2
CHOICES = ("auto", "native", "reference")
LEVELS = ("portable", "avx2", "avx512", "neon")  # by the number that the library knows them by
FILE_NAME = {"darwin": "libbivlm_kernels.dylib", "win32": "bivlm_kernels.dll"}.get(
    sys.platform, "libbivlm_kernels.so"
)


class NumbersStruct(ctypes.Structure):
    """`bivlm_numbers`."""

    _fields_ = (("values", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("unit", ctypes.c_void_p))


class WeightStruct(ctypes.Structure):
    """`bivlm_weight`."""

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
    )


_POINTER, _INT, _INT64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_LINEAR = (_POINTER, _POINTER, _INT64, _INT64, _INT, _POINTER, _POINTER, _INT, _INT)
_UNPACK = (_POINTER, _INT64, _INT64, _POINTER, _INT, _INT)

# Every function `bivlm_<name>` that returns an error, with its arguments
FUNCTIONS: dict[str, tuple[type, ...]] = {
    "linear": _LINEAR,
    "unpack": _UNPACK,
    "trellis_linear": _LINEAR,
    "trellis_unpack": _UNPACK,
    "rotate": (_POINTER, _INT64, _INT64, _INT, _INT64, _POINTER, _POINTER, _INT),
    "trellis_search": (
        _POINTER,
        _INT64,
        _INT64,
        _POINTER,
        ctypes.c_int32,
        ctypes.c_int32,
        _POINTER,
        _POINTER,
        _POINTER,
        _INT,
    ),
}


@dataclass(frozen=True)
class Library:
    """The loaded library. Its functions return 0, or a negative number for what they do not take; they let
    other Python threads run.
    """

    path: Path
    level: str
    linear: Callable[..., int]
    unpack: Callable[..., int]
    trellis_linear: Callable[..., int]
    trellis_unpack: Callable[..., int]
    rotate: Callable[..., int]
    trellis_search: Callable[..., int]


@dataclass(frozen=True)
class Status:
    """Whether the library is in use, the instruction set that it uses, and where it lies or why it is not in
    use.
    """

    loaded: bool
    level: str | None
    why: str


def library() -> Library | None:
    """The library, or None where the reference kernel has to do."""
    found = _search()
    return found if isinstance(found, Library) else None


def status() -> Status:
    """What `library` found, in words. InputError for an environment variable that asks for what is not
    there.
    """
    found = _search()
    return (
        Status(True, found.level, str(found.path))
        if isinstance(found, Library)
        else Status(False, None, found)
    )


@cache
def _search() -> Library | str:
    """The library, or why there is none: environment, files and processor are looked at once in a process."""
    choice = _asked("BIVLM_KERNEL", CHOICES) or "auto"
    if choice == "reference":
        return "BIVLM_KERNEL=reference"
    found = _opened()
    if choice == "native" and isinstance(found, str):
        raise InputError(
            f"BIVLM_KERNEL is native, but {found}; install bivlm where a C++ compiler is found, or unset"
            " BIVLM_KERNEL"
        )
    return found


def _opened() -> Library | str:
    path = _path()
    if path is None:
        return (
            f"this installation has no {FILE_NAME}: it was built without a C++ compiler, or runs from its"
            " source folder"
        )
    try:
        opened = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path} cannot be loaded: {error}"
    if (version := opened.bivlm_abi_version()) != ABI:
        return f"{path} has interface version {version}, and this bivlm needs {ABI}: install bivlm again"
    functions = {name: getattr(opened, f"bivlm_{name}") for name in FUNCTIONS}
    for name, function in functions.items():
        function.argtypes = FUNCTIONS[name]
    return Library(path, _set_level(opened), **functions)


def _path() -> Path | None:
    """Beside this package's files; an editable installation has its sources in one folder and the library in
    another, both on the package's path.
    """
    if named := os.environ.get("BIVLM_LIBRARY"):
        if not Path(named).is_file():
            raise InputError(
                f"BIVLM_LIBRARY is {named}, which is no file; give the file of a built library, or unset it"
            )
        return Path(named).resolve()
    return next(
        (path for folder in bivlm.native.__path__ if (path := Path(folder, FILE_NAME)).is_file()), None
    )


def _set_level(opened: ctypes.CDLL) -> str:
    asked = _asked("BIVLM_CPU_LEVEL", LEVELS)
    if asked is None:
        return LEVELS[opened.bivlm_level()]
    level = LEVELS[opened.bivlm_force_level(LEVELS.index(asked))]
    if level != asked:
        raise InputError(
            f"BIVLM_CPU_LEVEL is {asked}, which this processor or this build of the library lacks ({level} is"
            " there); unset it"
        )
    return level


def _asked(variable: str, choices: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable)
    if value and value not in choices:
        raise InputError(f"{variable} is {value}; needs one of {', '.join(choices)}, or nothing")
    return value or None
