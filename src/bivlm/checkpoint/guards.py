"""Guards around what transformers does with a folder that may be damaged or hostile.

transformers takes config.json at its word: it makes as many blocks as it is told to, and raises whatever a
wrong value leads to. So depth is bounded by what the files hold before a model is made, and what is raised
becomes one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bivlm.errors import InputError

# how often a module is made, and the sizes of tables that are computed and not stored
_REPEATS = re.compile(r"(num|n)_(\w+_)?(layers?|experts|blocks|stages)|depths?")
_TABLES = re.compile(r"position|image_size|patch|window|context")
MOST_POSITIONS = 1 << 24
_NO_MEMORY = ("not enough memory", "out of memory", "allocate memory", "bad_alloc", "bad alloc")


def check_depth(folder: Path, config: Any, shapes: Iterable[tuple[int, ...]]) -> None:
    """InputError if the config asks for more repeated modules than the files have tensors (of these `shapes`;
    a tensor of three dims may hold as many experts as it is long), or for a computed table that no model has.
    """
    lengths = [shape[0] if len(shape) == 3 else 1 for shape in shapes]
    stored, experts = max(len(lengths), 1), max([len(lengths), *lengths])
    for name, value in _numbers(config.to_dict()):
        if _REPEATS.fullmatch(name) and value > (experts if name.endswith("experts") else stored):
            raise InputError(
                f"{folder / 'config.json'}: {name} is {value}, and the files hold {len(lengths)} tensors;"
                " they do not belong together"
            )
        if _TABLES.search(name) and value > MOST_POSITIONS:
            raise InputError(
                f"{folder / 'config.json'}: {name} is {value}; more than {MOST_POSITIONS} are not read"
            )


def check_holds_model(folder: Path) -> None:
    """InputError for what is no folder, and for one without config.json: unfinished work, or no model."""
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder that holds config.json and the weights")
    if not (folder / "config.json").exists():
        if (folder / ".bivlm-job").exists():
            raise InputError(
                f"{folder} is unfinished work; run its `bivlm quantize` command again to finish it"
            )
        raise InputError(
            f"{folder} {'has no config.json' if any(folder.iterdir()) else 'is empty'}; give the folder of a"
            " model"
        )


def check_files(folder: Path) -> None:
    """InputError if something in the folder is neither file nor folder: whoever reads a pipe waits forever,
    and a device may never end.
    """
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path} is no file but a pipe or a device; take it out of the folder")


def _numbers(content: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a configuration with the name of its field."""
    if isinstance(content, Mapping):
        for field, value in content.items():
            yield from _numbers(value, str(field))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _numbers(value, name)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield name, content


@contextmanager
def folder_blamed(folder: Path) -> Iterator[None]:
    """Turn whatever transformers raises over the contents of a folder into InputError that names the folder
    and what was raised; also a lack of memory, which a hostile folder may ask for, and a package that is
    missing.
    """
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        from bivlm.families.packages import missing_package  # needs torch, which help and faults do without

        needed = missing_package(error)
        if needed is None:
            raise
        raise InputError(f"{folder}: the model {needed}") from error
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        if is_lack_of_memory(error):
            raise InputError(
                f"{folder} asks for more memory than this process can have ({words[0][:200]}); free some or"
                " allow more (ulimit -v), or get the folder again if it is no large model"
            ) from error
        raise InputError(
            f"{folder} cannot be loaded; its config.json or its files are damaged, or do not belong together"
            f" ({type(error).__name__}: {words[0][:200]})"
        ) from error


@contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """Turn a lack of memory into InputError; `what` is it that needs more. Everything else passes."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise InputError(
            f"{what} needs more memory than this process can have"
            f" ({str(error).strip().partition(chr(10))[0][:200]}); free some or allow more (ulimit -v), then"
            " run the same command again; it continues after the last finished unit"
        ) from error


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, in Python's way or in torch's."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)
