"""Settings as text: NAME=VALUE pairs, and the quantizer or pruner that is built from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, TypeVar

from pydantic import ValidationError

from bivlm.errors import InputError

T = TypeVar("T")


def parse_settings(pairs: Sequence[str], like: str = "bands=5") -> dict[str, Any]:
    """`["bands=5", "granularity=row"]` as values: JSON if it is JSON, text otherwise. `like` is the example
    in error messages.

    Raises InputError for text that is no pair, and for a name that is given twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = (word.strip() for word in pair.partition("="))
        if not equals or not name:
            raise InputError(f"the setting {pair!r} is no NAME=VALUE; write it like {like}")
        if name in settings:
            raise InputError(f"the setting {name} is given twice; give it once")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def build(kind: type[T], settings: Mapping[str, Any], what: str, others: Sequence[str] = ()) -> T:
    """A pydantic dataclass from its fields.

    Raises InputError that begins with `what`. It names the first refused value and the possible settings:
    `others` and the fields.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or what
        known = ", ".join((*others, *signature(kind).parameters)) or "none"
        raise InputError(
            f"{what}: {place}={first['input']!r} is refused: {first['msg']}; its settings are {known}"
        ) from error
