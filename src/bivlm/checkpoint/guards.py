"""Guards around what transformers does with a folder that may be damaged or hostile.

transformers takes config.json at its word: it makes as many blocks as it is told to, and raises whatever a
wrong value leads to. So depth is bounded by what the files hold before a model is made, and what is raised
becomes one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bivlm.errors import InputError

_REPEATS = re.compile(r"(num|n)_(\w+_)?(layers?|experts|blocks|stages)|depths?")  # how often a module is made
_TABLES = re.compile(
    r"position|image_size|patch|window|context"
)  # sizes of tables that are computed, not stored
MOST_POSITIONS = 1 << 24


def check_depth(folder: Path, config: Any, stored: int) -> None:
    """InputError if the config asks for more repeated modules than the files have tensors (`stored`), or for
    a computed table that no model has.
    """
    for name, value in _numbers(config.to_dict()):
        if _REPEATS.fullmatch(name) and value > max(stored, 1):
            raise InputError(
                f"{folder / 'config.json'}: {name} is {value}, and the files hold {stored} tensors; they do"
                " not belong together"
            )
        if _TABLES.search(name) and value > MOST_POSITIONS:
            raise InputError(
                f"{folder / 'config.json'}: {name} is {value}; more than {MOST_POSITIONS} are not read"
            )


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
    and what was raised. A full memory counts too: a sound folder of this machine's size does not fill it.
    """
    try:
        yield
    except (InputError, ImportError):
        raise
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{folder} cannot be loaded; its config.json or its files are damaged, or do not belong together"
            f" ({type(error).__name__}: {words[0][:200]})"
        ) from error
