"""The folder of one evaluation, whole or without `result.json`:

OUT/records.jsonl   every question with its answer, score, confidence and divergence, one record a line, in
                    the order in which they were asked
OUT/result.json     the numbers, what was asked of which model, and the machine; written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bivlm.checkpoint.durable import sync_folder, write_text
from bivlm.errors import InputError
from bivlm.eval.records import RECORDS_VERSION
from bivlm.eval.run import EvalResult
from bivlm.machine import machine

RECORDS, RESULT = "records.jsonl", "result.json"


def check_free(out: Path) -> None:
    """Raises InputError, before any long work, if `out` is a file, or a folder with something in it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out is a folder for the results")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give --out a new folder")


def write_evaluation(out: Path, result: EvalResult, asked: Mapping[str, Any]) -> None:
    """Put the result into the folder `out`; `asked` says what was asked of which model, ready for JSON.
    Raises InputError if it is not empty, or cannot be written.
    """
    check_free(out)
    lines = (json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in result.records)
    content = {
        "asked": dict(asked),
        "result": result.to_dict(),
        "records_version": RECORDS_VERSION,
        "machine": machine(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RECORDS, "".join(lines))
        write_text(out / RESULT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        sync_folder(out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}); make room, or give --out a folder that can be"
            " written"
        ) from error
