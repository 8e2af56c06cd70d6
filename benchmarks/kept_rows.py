"""The rows of a benchmark in a JSON file: kept after every measurement, so that the same command continues,
as long as the protocol is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.checkpoint.durable import write_text
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.job.recipe import Recipe

Row = dict[str, Any]


def kept_rows(
    path: Path | None,
    protocol: Mapping[str, Any],
    key: Callable[[Row], Any] = lambda row: row["preset"],
    later: Collection[str] = (),
) -> dict[Any, Row]:
    """The rows of an earlier run, by `key`; none without a file.

    InputError when the file holds something else, or results of another protocol; a part of the protocol that
    is in `later` may be missing there.
    """
    if path is None or not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, rows = content["protocol"], {key(row): row for row in content["rows"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no results of this benchmark; name another file, or remove it"
        ) from error
    for name, value in protocol.items():
        if found.get(name) != value and not (name in later and name not in found):
            raise InputError(
                f"{path} holds results of another protocol ({name}: {found.get(name)}, now {value}); name"
                " another file, or remove it"
            )
    return rows


def save_rows(path: Path | None, protocol: Mapping[str, Any], rows: Mapping[Any, Row]) -> None:
    """Write protocol and rows, unless there is no file to write."""
    if path is not None:
        write_text(path, json.dumps({"protocol": protocol, "rows": list(rows.values())}, indent=1) + "\n")


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the result, as JSON gives it back."""
    described = ("name", "description", "true_bits")
    return json.loads(json.dumps({k: v for k, v in recipe.to_dict().items() if k not in described}))


def is_current(row: Row | None, recipe: Recipe) -> bool:
    """Whether a kept row measured this very recipe, as far as the row describes one: earlier rows know the
    rules alone. A failure is always tried again.
    """
    if row is None or "failed" in row:
        return False
    return all(row.get(name, value) == value for name, value in plain_recipe(recipe).items())


def digest(tensors: Iterable[Tensor]) -> str:
    """One text for the content of some tensors."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()[:16]


def weights_digest(source: SourceModel) -> str:
    """One text for a model's weights."""
    return digest(source.read([name], copy=False)[name] for name in sorted(source.entries))
