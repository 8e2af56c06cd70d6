"""The native library: the functions of csrc/include/bivlm.h by ctypes. It is searched, loaded and checked
once, when first needed.

    BIVLM_KERNEL      auto (the library if there is one), native (an error if there is none), reference
                      (never the library)
    BIVLM_CPU_LEVEL   avx512, avx2, neon or portable: the instruction set to use, instead of the best that the
                      processor has
    BIVLM_LIBRARY     the file of another build, for work on the library

Without the library everything runs on kernels/reference.py. torch is imported first: library and torch then
share one OpenMP runtime.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch  # noqa: F401 - before the library, see above

import bivlm.native
from bivlm.errors import InputError
from bivlm.native.structs import difference

ABI = 7
logger = logging.getLogger(__name__)

CHOICES = ("auto", "native", "reference")
FILE_NAME = "libbivlm_kernels.dylib" if sys.platform == "darwin" else "libbivlm_kernels.so"

_POINTER, _INT, _INT64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_LINEAR = (_POINTER, _POINTER, _INT64, _INT64, _INT, _POINTER, _POINTER, _INT, _INT)
_MANY = (_POINTER, _INT64, _INT, _INT, _INT)
_UNPACK = (_POINTER, _INT64, _INT64, _POINTER, _INT, _INT)

# Every function `bivlm_<name>` that returns an error, with its arguments
FUNCTIONS: dict[str, tuple[type, ...]] = {
    "linear": _LINEAR,
    "linear_many": _MANY,
    "unpack": _UNPACK,
    "trellis_linear": _LINEAR,
    "trellis_linear_many": _MANY,
    "trellis_unpack": _UNPACK,
    "rotate": (_POINTER, _INT64, _INT64, _INT, _INT64, _INT64, _POINTER, _POINTER, _INT),
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
    """The loaded library. Its functions return 0, or a negative number for arguments that they refuse; they
    release the GIL.
    """

    path: Path
    instruction_set: str
    linear: Callable[..., int]
    linear_many: Callable[..., int]
    unpack: Callable[..., int]
    trellis_linear: Callable[..., int]
    trellis_linear_many: Callable[..., int]
    trellis_unpack: Callable[..., int]
    rotate: Callable[..., int]
    trellis_search: Callable[..., int]


@dataclass(frozen=True)
class Status:
    """Whether the library is in use, its instruction set, and its path, or why it is not in use."""

    loaded: bool
    instruction_set: str | None
    why: str


def library() -> Library | None:
    """The library, or None if the reference kernel is used instead."""
    found = _search()
    return found if isinstance(found, Library) else None


@cache
def warn_of_reference() -> None:
    """Say once in a process that packed weights run slowly for want of the library, unless that was asked
    for.
    """
    if _asked("BIVLM_KERNEL", CHOICES) != "reference":
        logger.warning(
            "packed models run on the slow reference kernels: %s (`bivlm doctor` says more)", status().why
        )


def status() -> Status:
    """The result of `library` in words. InputError if an environment variable asks for something that is not
    available.
    """
    found = _search()
    return (
        Status(True, found.instruction_set, str(found.path))
        if isinstance(found, Library)
        else Status(False, None, found)
    )


@cache
def _search() -> Library | str:
    """The library, or why there is none: environment, files and processor are read once per process."""
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
    _declare(opened)
    if differs := difference(lambda name: opened.bivlm_layout(name.encode())):
        return f"{path} does not fit this bivlm: {differs}; install bivlm again"
    functions = {name: getattr(opened, f"bivlm_{name}") for name in FUNCTIONS}
    return Library(path, _use_instruction_set(opened), **functions)


def _declare(opened: ctypes.CDLL) -> None:
    """Give the library's functions their types."""
    for name, arguments in FUNCTIONS.items():
        getattr(opened, f"bivlm_{name}").argtypes = arguments
    opened.bivlm_layout.argtypes, opened.bivlm_layout.restype = (ctypes.c_char_p,), ctypes.c_int64
    opened.bivlm_instruction_set_name.argtypes = (ctypes.c_int,)
    opened.bivlm_use_instruction_set.argtypes = (ctypes.c_char_p,)
    for name in ("instruction_set_name", "instruction_set", "use_instruction_set"):
        getattr(opened, f"bivlm_{name}").restype = ctypes.c_char_p


def _path() -> Path | None:
    """The library's file next to this package's files. An editable installation has the sources in one folder
    and the library in another, both on the package's path.
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


def _use_instruction_set(opened: ctypes.CDLL) -> str:
    """The instruction set in use; InputError if the requested one is not available."""
    asked = _asked("BIVLM_CPU_LEVEL", _instruction_sets(opened))
    if asked is None:
        return opened.bivlm_instruction_set().decode()
    found = opened.bivlm_use_instruction_set(asked.encode()).decode()
    if found != asked:
        raise InputError(
            f"BIVLM_CPU_LEVEL is {asked}, which this processor or this build of the library lacks ({found} is"
            " there); unset it"
        )
    return found


def _instruction_sets(opened: ctypes.CDLL) -> tuple[str, ...]:
    """The instruction sets that the library is written for, best first, including those that the processor
    does not have.
    """
    names = map(opened.bivlm_instruction_set_name, itertools.count())
    return tuple(name.decode() for name in itertools.takewhile(bool, names))


def _asked(variable: str, choices: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable)
    if value and value not in choices:
        raise InputError(f"{variable} is {value}; needs one of {', '.join(choices)}, or nothing")
    return value or None
