"""The rows of bench_frontier.py for one model: the model itself, what presets make of it, and what
llama.cpp's types make of it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.events import Events
from bivlm.job.recipe import Recipe
from bivlm.loading import load
from gguf_model import (
    Stored,
    interleaved,
    mean_squares,
    names_said,
    stored_tensors,
    write_gguf,
    write_importance,
)
from ik_llama import Library, package_folder, quantize, speed
from kept_rows import Row
from language_judge import written
from language_model import FULL_PRECISION, Bench
from machine import describe

PEERS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "Q2_K", "IQ1_KT", "IQ2_KT")
TABLES = "tables"  # after a "+": embedding and head too
KEEP_TABLES = ("--token-embedding-type", "f16", "--output-tensor-type", "f16")
TIMED_TOKENS = 32


def check_peers(names: Sequence[str]) -> None:
    """InputError for a type that is not one of PEERS, and when the packages that make them are missing."""
    for name in names:
        kind, plus, rest = name.partition("+")
        if kind not in PEERS or (plus and rest != TABLES):
            raise InputError(
                f"there is no peer {name!r}; peers are {', '.join(PEERS)}, each also with +{TABLES}"
            )
    if names:
        package_folder()
        if find_spec("gguf") is None:
            raise InputError("llama.cpp's types need a package to write their input: pip install gguf")


def is_peer(name: str) -> bool:
    """Whether a row's name is one of llama.cpp's types."""
    return name.partition("+")[0] in PEERS


def tokens_per_second(model: Any, prompt: Tensor) -> float:
    """Greedy decoding of one sequence after a prompt (1, p), without the time that the prompt takes."""
    written(model, prompt, 2)
    started = time.perf_counter()
    written(model, prompt, 1)
    first = time.perf_counter() - started
    written(model, prompt, 1 + TIMED_TOKENS)
    return TIMED_TOKENS / (time.perf_counter() - started - 2 * first)


@dataclass(frozen=True)
class ModelBench:
    """A model, what identifies its weights, and how it is judged."""

    name: str
    weights: str
    bench: Bench
    threads: int

    @cached_property
    def source(self) -> SourceModel:
        return SourceModel(self.bench.folder)

    def full_precision(self) -> Row:
        model, _ = load(self.bench.folder)
        total = sum(math.prod(entry.shape) for entry in self.source.entries.values())
        found = self.bench.full_precision() | {
            "whole": 8.0 * model.dtype.itemsize,
            "weights_count": total,
        }
        return found | self.speeds(FULL_PRECISION)

    def preset(self, name: str, recipe: Recipe, events: Events) -> Row:
        """Packed, judged, and timed with both kinds of activations."""
        row = self.bench.measure(name, recipe, events)
        return row if "failed" in row else row | self.speeds(name)

    def speeds(self, name: str) -> Row:
        """Tokens per second of what an earlier call packed, for a row's columns: with both kinds of
        activations, or what a peer's runtime has. InputError where it is not kept.
        """
        prompt = self.bench.judge.prompts[:1]
        if name == FULL_PRECISION:
            return {"tokens_per_second": tokens_per_second(load(self.bench.folder)[0], prompt)}
        if is_peer(name):
            timed = speed(self.bench.work / f"{name}.gguf", self.threads, TIMED_TOKENS)
            return {"tokens_per_second_int8": timed["tokens_per_second"]}
        kinds = {"tokens_per_second": "float", "tokens_per_second_int8": "int8"}
        return {
            field: tokens_per_second(load(self.bench.place(name), activations=kind)[0], prompt)
            for field, kind in kinds.items()
        }

    @cached_property
    def importance(self) -> tuple[Path, Path, dict[str, str], float]:
        """The GGUF file that is packed, the importance matrix, GGUF's names of the tensors, and the seconds
        that the matrix took.
        """
        work = self.bench.work
        work.mkdir(parents=True, exist_ok=True)
        file, matrix = work / "float32.gguf", work / "importance.dat"
        names = write_gguf(self.source, file)
        started = time.perf_counter()
        means = mean_squares(load(self.bench.folder)[0], self.bench.calibration)
        by_target = {names[name]: mean for name, mean in means.items()}
        write_importance(matrix, by_target, len(self.bench.calibration))
        return file, matrix, names, time.perf_counter() - started

    def peer(self, name: str) -> Row:
        """Packed by llama-quantize, expanded, judged in torch, and timed in the runtime."""
        kind, _, tables = name.partition("+")
        row: Row = {"preset": name, "quantizer": "llama.cpp", "machine": describe()}
        try:
            package = package_folder()
            file, matrix, names, seconds = self.importance
            out = self.bench.work / f"{name}.gguf"
            options = () if tables else KEEP_TABLES
            cost = quantize(package, file, out, kind, matrix, options, self.threads)
            row |= {"seconds": cost.seconds + seconds, "peak_bytes": cost.peak_bytes}
            library = Library(package)
            row |= stored_bits(library, stored_tensors(out), names)
            row |= self.bench.judge.judge(self._expanded(library, out, names))
            if not math.isfinite(row["perplexity"]):
                return row | {"failed": "the expanded model's output is not finite"}
            return row | self.speeds(name)
        except InputError as error:
            return row | {"failed": str(error)}

    @torch.inference_mode()
    def _expanded(self, library: Library, file: Path, names: Mapping[str, str]) -> Any:
        """The model with the matrices that the file holds. Vectors are as they were: quantizers leave them in
        float32, and some architectures' files hold another number for them (Gemma's norms: one more).
        """
        model, _ = load(self.bench.folder)
        parameters, stored = dict(model.named_parameters(remove_duplicate=False)), stored_tensors(file)
        for name, target in names.items():
            if len(stored[target].shape) < 2:
                continue
            expanded = library.dequantize(file, stored[target])
            parameters[name].copy_(interleaved(expanded, name, model.config, back=True))
        return model


def stored_bits(library: Library, stored: Mapping[str, Stored], names: Mapping[str, str]) -> Row:
    """Bits of the blocks' linears and of all weights, as stored, and the types of these linears."""

    def size(one: Stored) -> int:
        return math.prod(one.shape[:-1]) * library.row_bytes(one.kind, one.shape[-1])

    linears = [
        stored[target]
        for name, target in names.items()
        if ".layers." in name and len(stored[target].shape) == 2
    ]
    everything = [stored[target] for target in names.values()]
    bits, whole = (
        8 * sum(map(size, chosen)) / sum(math.prod(one.shape) for one in chosen)
        for chosen in (linears, everything)
    )
    types = Counter(library.type_name(one.kind) for one in linears)
    return {"bits": bits, "whole": whole, "types": names_said(types)}
