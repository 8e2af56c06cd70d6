"""The folder of one evaluation, whole or without `result.json`:

OUT/records.jsonl   every question with its answer, score, confidence and divergence, one record a line, in
                    the order in which they were asked
OUT/pictures/       a small picture for every digest of images in the records
OUT/result.json     the numbers, what was asked of which model, its size, and the machine; written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bivlm.checkpoint.durable import sync_folder, write_text
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.modules import is_packed
from bivlm.checkpoint.shards import read_json
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.eval.records import RECORDS_VERSION
from bivlm.eval.run import EvalResult
from bivlm.eval.thumbnails import thumbnails
from bivlm.machine import machine
from bivlm.types import Sample

RECORDS, PICTURES, RESULT = "records.jsonl", "pictures", "result.json"


def check_free(out: Path) -> None:
    """Raises InputError, before any long work, if `out` is a file, or a folder with something in it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out is a folder for the results")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give --out a new folder")


def write_evaluation(
    out: Path,
    result: EvalResult,
    asked: Mapping[str, Any],
    samples: Sequence[Sample],
    size: Mapping[str, Any],
) -> None:
    """Put the result into the folder `out`; `asked` says what was asked of which model, ready for JSON, and
    `size` is the model's (`model_size`). Raises InputError if it is not empty, or cannot be written.
    """
    check_free(out)
    lines = (json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in result.records)
    content = {
        "asked": dict(asked),
        "result": result.to_dict(),
        "size": dict(size),
        "records_version": RECORDS_VERSION,
        "machine": machine(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RECORDS, "".join(lines))
        (out / PICTURES).mkdir()
        for digest, picture in thumbnails(samples):
            (out / PICTURES / f"{digest}.webp").write_bytes(picture)
        write_text(out / RESULT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        sync_folder(out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}); make room, or give --out a folder that can be"
            " written"
        ) from error


def model_size(model: str | Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """True bits of a packed model, of its parts and of its experts, or that it is not packed; and the bytes
    of its weight files. Raises InputError as `inspect` does.
    """
    folder = resolve_model(model, trust_remote_code)
    nbytes = sum(file.stat().st_size for file in weight_files(folder))
    if not is_packed(read_json(folder / "config.json")):
        return {"weight_bytes": nbytes, "true_bits": None, "parts": []}
    found = inspect(folder, trust_remote_code)
    parts = [
        {"name": row.name, "weights": row.weights, "nbytes": row.bytes_after, "bits": row.bits_per_weight}
        for row in found.parts
    ]
    size = {"weight_bytes": nbytes, "true_bits": found.total.bits_per_weight, "parts": parts}
    if found.experts:
        size["experts"] = [{"name": row.name, "each": [*map(asdict, row.each)]} for row in found.experts]
    return size
