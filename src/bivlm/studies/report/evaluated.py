"""A folder that `bivlm eval --out` wrote, read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bivlm.checkpoint.shards import read_json
from bivlm.data.files import because, why_no_file
from bivlm.errors import InputError, cut
from bivlm.eval.folder import PICTURES, RECORDS, RESULT
from bivlm.eval.inspection import ExpertNumbers
from bivlm.eval.records import Record

FULL_BITS = 16.0  # of a weight in full precision, where the folder says nothing else


@dataclass(frozen=True)
class PartBits:
    """A part of a packed model: number of packed weights, bytes, true bits."""

    name: str
    weights: int
    nbytes: int
    bits: float


@dataclass(frozen=True)
class Evaluated:
    """One evaluation. `result` are the numbers of result.json, `true_bits` is None in full precision, and
    `weight_bytes` are those of the model's weight files; `pictures` has a file for every digest of images;
    `experts` the numbers of every packed expert, layer by layer.
    """

    name: str
    result: Mapping[str, Any]
    records: tuple[Record, ...]
    true_bits: float | None
    weight_bytes: int
    parts: tuple[PartBits, ...]
    pictures: Mapping[str, Path]
    experts: tuple[tuple[ExpertNumbers, ...], ...] = ()

    @property
    def packed(self) -> bool:
        return self.true_bits is not None

    @property
    def bits(self) -> float:
        """True bits per packed weight; those of a model in full precision."""
        return FULL_BITS if self.true_bits is None else self.true_bits

    def number(self, *names: str) -> float | None:
        """A number of the result by its path of names; None where it is missing."""
        found: Any = self.result
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def read_evaluations(folders: Sequence[Path]) -> list[Evaluated]:
    """The evaluations, full precision first, then by falling true bits, each under a name of its own.

    Raises InputError for a folder that `bivlm eval --out` did not write, for a damaged one, and for none.
    """
    if not folders:
        raise InputError("there is nothing to report; give folders that `bivlm eval … --out FOLDER` wrote")
    several = [_read(folder) for folder in folders]
    names = [evaluated.name for evaluated in several]
    if len(set(names)) < len(names):
        several = [
            replace(found, name=f"{found.name} ({folder.name})")
            for found, folder in zip(several, folders, strict=True)
        ]
    return sorted(several, key=lambda evaluated: (evaluated.packed, -evaluated.bits))


def _read(folder: Path) -> Evaluated:
    if why := why_no_file(folder / RESULT):
        raise InputError(
            f"{folder} holds no {RESULT}{because(why)}; give a folder that `bivlm eval … --out FOLDER` wrote"
        )
    content = read_json(folder / RESULT)
    try:
        records = tuple(
            Record.from_dict(json.loads(line))
            for line in (folder / RECORDS).read_text(encoding="utf-8").splitlines()
        )
        size = content["size"]
        return Evaluated(
            name=_name(content["asked"]),
            result=content["result"],
            records=records,
            true_bits=None if size["true_bits"] is None else float(size["true_bits"]),
            weight_bytes=int(size["weight_bytes"]),
            parts=tuple(PartBits(**part) for part in size["parts"]),
            pictures={file.stem: file for file in sorted((folder / PICTURES).glob("*.webp"))},
            experts=tuple(
                tuple(ExpertNumbers(**one) for one in layer["each"]) for layer in size.get("experts", ())
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: the records are damaged or of another version ({cut(str(error), 100)}); run its"
            " `bivlm eval` again"
        ) from error


def _name(asked: Mapping[str, Any]) -> str:
    """The model's name with what changed it: an adapter, a pruning."""
    model = str(asked["model"])
    name = Path(model).name if Path(model).exists() else model
    changes = [str(asked[field]) for field in ("adapter", "prune") if asked.get(field)]
    return " + ".join([name, *changes])
