"""A small pretrained language model that is packed like any other, loaded from its folder, and judged: what
bench_language.py and bench_frontier.py run.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bivlm.calibration.inputs import CalibrationInput
from bivlm.checkpoint.place import REPORT_NAME
from bivlm.checkpoint.shards import read_json
from bivlm.errors import InputError
from bivlm.events import Events
from bivlm.job.plan import Plan
from bivlm.job.recipe import Recipe
from bivlm.job.request import Request
from bivlm.job.run import Prepared, prepare, run
from bivlm.loading import load
from bivlm.machine import peak_memory, reset_peak_memory
from kept_rows import plain_recipe
from language_judge import Judge
from machine import describe

FULL_PRECISION = "full precision"
KEPT_BITS = 16


def readable_folder(folder: Path, work: Path) -> Path:
    """The model as a folder that bivlm reads: `folder` itself, or one below `work` with the weights of its
    GGUF file in float32. InputError when it holds no causal language model.
    """
    option = gguf_option(folder)
    if not option:
        return folder
    target = work / "model"
    if not (target / "config.json").exists():
        try:
            loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **option)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **option)
        except (OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(f"{folder} cannot be read as a causal language model: {first}") from error
        del loaded.config.quantization_config  # what was read from GGUF counts as quantized
        ordinary = type(loaded)(loaded.config)
        ordinary.load_state_dict(loaded.state_dict())
        tokenizer.save_pretrained(target)
        ordinary.save_pretrained(target)
    return target


def gguf_option(folder: Path) -> dict[str, str]:
    """How transformers is told to read a folder: nothing for an ordinary one, the file's name for one that
    holds a GGUF file.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; --model is a Hugging Face model folder, or a folder with one .gguf"
            " file"
        )
    if (folder / "config.json").exists():
        return {}
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if len(found) != 1:
        raise InputError(
            f"{folder} has no config.json and {len(found)} .gguf files; give a Hugging Face model folder, or"
            " one with one .gguf file"
        )
    if find_spec("gguf") is None:
        raise InputError(
            f"{found[0]} is a GGUF file, and reading one needs the package gguf: pip install gguf"
        )
    return {"gguf_file": found[0]}


def calibration_windows(windows: Tensor) -> list[CalibrationInput]:
    """Windows of tokens (n, t) as calibration inputs: all of it is text."""
    return [
        CalibrationInput(
            {"input_ids": window[None], "attention_mask": torch.ones_like(window)[None]},
            torch.zeros_like(window, dtype=torch.bool),
        )
        for window in windows
    ]


@dataclass(frozen=True)
class Bench:
    """A model's folder, the windows (n, t) that calibrate and test it, those of a second text where there is
    one, and a folder for what is packed.
    """

    folder: Path
    calibration: Tensor
    test: Tensor
    work: Path
    second: Tensor | None = None

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.folder, self.test, self.second)

    def full_precision(self) -> dict[str, Any]:
        row = {"preset": FULL_PRECISION, "quantizer": "", "paper_bits": None, "seconds": None}
        return row | {"machine": describe(), **self.judge.full_precision()}

    def place(self, name: str) -> Path:
        """Where the model that a preset packed lies."""
        return self.work / re.sub(r"[^\w.=-]+", "_", name)

    def measure(self, name: str, recipe: Recipe, events: Events) -> dict[str, Any]:
        """Pack the model, load the folder, and measure; `failed` says why where that is impossible.

        What an interrupted run has packed is not packed again; its seconds are then those of the last go.
        """
        row = {"preset": name, **plain_recipe(recipe), "machine": describe()}
        kept = self.work / f"sensitivities-{len(self.calibration)}.json"
        try:
            sensitivities = None if recipe.budget is None else kept
            request = Request(recipe, sensitivities=sensitivities, measurements=self.work / "measurements")
            prepared = prepare(self.folder, request)
            out = self.place(name)
            started, measurable = time.perf_counter(), reset_peak_memory()
            run(prepared, out, calibration_windows(self.calibration), overwrite=True, events=events)
            row |= {"seconds": time.perf_counter() - started, **counts(prepared, out)}
            row["peak_bytes"] = peak_memory() if measurable else None
            found = self.judge.judge(load(out, expand=True)[0])
        except InputError as error:
            return row | {"failed": str(error)}
        if not math.isfinite(found["perplexity"]):
            return row | {"failed": "the packed model's output is not finite"}
        return row | found


def counts(prepared: Prepared, out: Path) -> dict[str, Any]:
    """What is packed and what it takes, from the folder's report: true bits, the paper's, those of the whole
    model. Linears that the recipe keeps count with KEPT_BITS.
    """
    report = read_json(out / REPORT_NAME).values()
    kept = [linear for linear in prepared.plan.linears if linear.kept_because == "kept by the recipe"]
    kept_weights = sum(math.prod(linear.shape) for linear in kept)
    packed_weights = sum(row["weights"] for row in report)
    weights = packed_weights + kept_weights
    stored = sum(8 * row["stored_bytes"] for row in report) + KEPT_BITS * kept_weights
    paper = [row["paper_bits"] for row in report]
    counted = None
    if None not in paper:
        own = sum(row["paper_bits"] * row["weights"] for row in report)
        counted = (own + KEPT_BITS * kept_weights) / weights
    total = sum(math.prod(entry.shape) for entry in prepared.source.entries.values())
    return {
        "quantizer": names_of(prepared.plan),
        "kept": len(kept),
        "bits": stored / weights,
        "paper_bits": counted,
        "whole": (stored + KEPT_BITS * (total - weights)) / total,
    }


def names_of(plan: Plan) -> str:
    """The quantizers of the blocks' linears."""
    names = [linear.quantizer.name for linear in plan.linears if linear.quantizer is not None]
    return " + ".join(dict.fromkeys(names))
