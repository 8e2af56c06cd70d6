"""A small pretrained language model whose linears are quantized and whose perplexity is measured: what
bench_language.py runs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from bench_layers import KEPT, pack, quantizer_for
from bivlm.calibration.capture import capture
from bivlm.calibration.propagation import propagated
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.tuning import tune_block
from bivlm.errors import InputError
from bivlm.formats import FORMATS
from bivlm.job.budget.allocation import deal_out, linear_budget
from bivlm.job.budget.sensitivity import divergence_of, probe_block, with_bits
from bivlm.job.plan import BlockPlan, LinearPlan, Plan
from bivlm.job.recipe import Recipe, embedding_quantizer
from bivlm.quantizers import Quantizer, Trellis
from machine import describe

FULL_PRECISION = "full precision"
KEPT_BITS = 16
HEAD = "head"
PROBE_WINDOWS = 2  # windows that sensitivities are measured on
AT_ONCE = 2  # windows in one pass: more are no faster on a processor, since each is 512 tokens wide already


def read_model(folder: Path) -> tuple[transformers.PreTrainedModel, Any]:
    """A causal language model in float32 with its tokenizer. InputError when the folder holds none."""
    options = {"local_files_only": True, **gguf_option(folder)}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} cannot be read as a causal language model: {str(error).strip().splitlines()[0]}"
        ) from error
    if (
        "gguf_file" in options
    ):  # a model read from GGUF counts as quantized: its weights move into an ordinary one
        ordinary = type(loaded)(loaded.config)
        ordinary.load_state_dict(loaded.state_dict())
        loaded = ordinary
    return loaded.eval().requires_grad_(False), tokenizer


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


def longest_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The blocks of a model, and their path: its longest list of modules."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda named: len(named[1]), default=("", nn.ModuleList()))


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linears of the blocks, by name in the model's order: those below its longest list of modules."""
    path, blocks = longest_list(model)
    linears = {
        f"{path}.{name}": module for name, module in blocks.named_modules() if isinstance(module, nn.Linear)
    }
    if not linears:
        raise InputError(
            f"{type(model).__name__} has no blocks with nn.Linear in them; give a model of the Llama kind"
        )
    return linears


@torch.inference_mode()
def collect(
    model: transformers.PreTrainedModel, linears: Mapping[str, nn.Linear], windows: Tensor
) -> StatsCollector:
    """Second moments of what the linears receive from the windows (n, t)."""
    collector = StatsCollector(linears)
    for batch in windows.split(AT_ONCE):
        with collector.watching(torch.zeros(batch.numel(), dtype=torch.bool)):  # no token is visual
            model.base_model(input_ids=batch, use_cache=False)
    return collector


@torch.inference_mode()
def perplexity(model: transformers.PreTrainedModel, windows: Tensor) -> float:
    """exp of the mean cross-entropy of all tokens but the first of each window (n, t); NaN or infinity when
    the model's output is not finite.
    """
    lost = 0.0
    for batch in windows.split(AT_ONCE):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        lost += float((logits.logsumexp(-1) - logits.gather(-1, batch[:, 1:, None])[..., 0]).double().sum())
    mean = lost / (windows.shape[0] * (windows.shape[1] - 1))
    return math.exp(mean) if mean < 700 else mean * math.inf


@contextmanager
def weights_restored(model: nn.Module) -> Iterator[None]:
    """Whatever is put in the place of the model's parameters, the present ones are back afterwards."""
    originals = [
        (module, name, parameter, parameter.data)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, parameter, data in originals:
            parameter.data = data
            setattr(module, name, parameter)


@dataclass(frozen=True)
class Count:
    """What was packed: stored bits, weights, the bits that the method's paper counts (NaN where it counts as
    we do), quantizers, linears kept.
    """

    stored: float
    weights: int
    paper: float
    quantizer: str = ""
    kept: int = 0

    def __add__(self, other: Count) -> Count:
        return replace(
            self,
            stored=self.stored + other.stored,
            weights=self.weights + other.weights,
            paper=self.paper + other.paper,
        )

    def cells(self) -> dict[str, Any]:
        paper = None if math.isnan(self.paper) else self.paper / self.weights
        return {
            "quantizer": self.quantizer,
            "kept": self.kept,
            "bits": self.stored / self.weights,
            "paper_bits": paper,
        }


@dataclass(frozen=True)
class Bench:
    """A model, its linears, and the windows (n, t) that calibrate and test it."""

    model: transformers.PreTrainedModel
    linears: Mapping[str, nn.Linear]
    calibration: Tensor
    test: Tensor
    walk: bool = False

    @cached_property
    def stats(self) -> StatsCollector:
        return collect(self.model, self.linears, self.calibration)

    def full_precision(self) -> dict[str, Any]:
        bits = 8 * next(iter(self.linears.values())).weight.element_size()
        row = {
            "preset": FULL_PRECISION,
            "quantizer": "",
            "rules": [],
            "bits": bits,
            "paper_bits": None,
            "seconds": None,
            "machine": describe(),
        }
        return row | {"perplexity": perplexity(self.model, self.test)}

    def measure(self, name: str, recipe: Recipe) -> dict[str, Any]:
        """Quantize every linear, embedding and head where the recipe says so, and measure; `failed` says why
        where that is impossible.
        """
        row = {"preset": name, "rules": rules_of(recipe), "machine": describe()}
        start = time.perf_counter()
        collector = StatsCollector({HEAD: self.model.get_output_embeddings()})
        exact = (
            self._received_by_head(collector)
            if recipe.embeddings is not None and recipe.propagation
            else None
        )
        with weights_restored(self.model):
            try:
                count = self._walk(recipe) if self.walk or recipe.watches else self._put_in_place(recipe)
                if recipe.embeddings is not None:
                    count = count + self._pack_embeddings(
                        embedding_quantizer(recipe.embeddings, fed=True), collector, exact, recipe.propagation
                    )
            except ValueError as error:
                return row | {"failed": str(error)}
            row |= {**count.cells(), "whole": self.whole_bits(count), "seconds": time.perf_counter() - start}
            found = perplexity(self.model, self.test)
        return row | (
            {"perplexity": found}
            if math.isfinite(found)
            else {"failed": "the packed model's output is not finite"}
        )

    def whole_bits(self, count: Count) -> float:
        """Bits per weight of the whole model: what is packed as it is stored, everything else with 16
        bits.
        """
        total = sum(parameter.numel() for parameter in self.model.parameters())
        return (count.stored + KEPT_BITS * (total - count.weights)) / total

    @torch.inference_mode()
    def _received_by_head(self, collector: StatsCollector) -> list[dict[str, Tensor]]:
        """What reaches the head from every batch of calibration windows, as the model stands now."""
        found = []
        for batch in self.calibration.split(AT_ONCE):
            with collector.received() as received:
                self.model(input_ids=batch, use_cache=False)
            found.append(received)
        return found

    def _pack_embeddings(
        self,
        method: Quantizer,
        collector: StatsCollector,
        exact: list[dict[str, Tensor]] | None,
        propagation: float,
    ) -> Count:
        """Embedding and head last, on what reaches the head from the packed blocks; one weight where they are
        tied.

        `exact` is what reached the head in the full-precision model, where errors are propagated.
        """
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        tied = head.weight is embedding.weight
        with torch.inference_mode():
            for number, batch in enumerate(self.calibration.split(AT_ONCE)):
                with collector.watching(
                    torch.zeros(batch.numel(), dtype=torch.bool), None if exact is None else exact[number]
                ):
                    self.model(input_ids=batch, use_cache=False)
        stats = collector.stats(HEAD)
        packed = pack(method, propagated(head.weight.data, stats, propagation), stats)
        head.weight = nn.Parameter(packed.weight, requires_grad=False)
        count = Count(
            packed.stored_bits, packed.weight.numel(), packed.weight.numel() * (packed.paper_bits or math.nan)
        )
        if tied:
            embedding.weight = head.weight
            return count
        own = pack(
            replace(method, feedback=False) if isinstance(method, Trellis) else method,
            embedding.weight.data,
            None,
        )
        embedding.weight = nn.Parameter(own.weight, requires_grad=False)
        return count + Count(
            own.stored_bits, own.weight.numel(), own.weight.numel() * (own.paper_bits or math.nan)
        )

    def _put_in_place(self, recipe: Recipe) -> Count:
        """Replace every weight by what its packed bytes decode to. ValueError names the linear."""
        methods = {name: quantizer_for(recipe, name) for name in self.linears}
        used = {name: method for name, method in methods.items() if method is not None}
        if not used:
            raise ValueError(KEPT)
        stats = self.stats if any(method.needs_data for method in used.values()) else None
        kept = sum(linear.weight.numel() for name, linear in self.linears.items() if name not in used)
        stored, paper, weights = KEPT_BITS * kept, float(KEPT_BITS * kept), kept
        for name, method in used.items():
            linear = self.linears[name]
            try:
                packed = pack(method, linear.weight.data, stats.stats(name) if stats is not None else None)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            linear.weight = nn.Parameter(packed.weight, requires_grad=False)
            stored, weights = stored + packed.stored_bits, weights + packed.weight.numel()
            paper += packed.weight.numel() * (math.nan if packed.paper_bits is None else packed.paper_bits)
        return Count(stored, weights, paper, names_of(used), len(methods) - len(used))

    def _methods(self, recipe: Recipe) -> dict[str, Quantizer | None]:
        """The quantizer of every linear, its bits dealt out where the recipe has a budget: by the divergence
        of all tokens of some windows.
        """
        methods = {name: quantizer_for(recipe, name) for name in self.linears}
        if recipe.budget is None:
            return methods
        quantizers = {name: method for name, method in methods.items() if method is not None}

        @torch.inference_mode()
        def logits() -> list[Tensor]:
            return [
                self.model(input_ids=window[None], use_cache=False).logits[0]
                for window in self.calibration[:PROBE_WINDOWS]
            ]

        reference = logits()
        found = probe_block(
            self.linears, quantizers, self.stats, lambda: divergence_of(reference, logits(), last=0.0)
        )
        shapes = {name: tuple(linear.weight.shape) for name, linear in self.linears.items()}
        return {
            name: with_bits(quantizers[name], bits)
            for name, bits in deal_out(
                found, quantizers, shapes, self._left(recipe, quantizers, shapes)
            ).items()
        }

    def _left(
        self, recipe: Recipe, quantizers: Mapping[str, Quantizer], shapes: Mapping[str, tuple[int, int]]
    ) -> float:
        """What the budget leaves to the linears of the blocks, per weight. InputError when that is out of
        reach.
        """
        assert recipe.budget is not None
        linears = tuple(
            LinearPlan(name, "language", shapes[name], quantizer) for name, quantizer in quantizers.items()
        )
        tables = {
            id(module.weight): module
            for module in (self.model.get_input_embeddings(), self.model.get_output_embeddings())
        }
        embeddings = tuple(
            LinearPlan(
                type(module).__name__,
                None,
                tuple(module.weight.shape),
                embedding_quantizer(recipe.embeddings, fed=True),
                kind="embedding",
            )
            for module in tables.values()
            if recipe.embeddings is not None
        )
        return linear_budget(
            Plan((BlockPlan("", 0, False, linears),), (), embeddings=embeddings), recipe.budget
        )

    def _walk(self, recipe: Recipe) -> Count:
        """The same block by block, on what the packed blocks before produce, with error propagation and
        tuning where the recipe says so.
        """
        path, blocks = longest_list(self.model)
        stored, paper, weights = 0, 0.0, 0
        entries = [
            capture(self.model, {"input_ids": batch}, list(blocks))
            for batch in self.calibration.split(AT_ONCE)
        ]
        packed_states, exact_states = ([entry.hidden for entry in entries] for _ in range(2))
        methods = self._methods(recipe)
        for index, block in enumerate(blocks):
            calls = [entry.calls[index] for entry in entries]
            collector = StatsCollector(
                {name: linear for name, linear in self.linears.items() if name.startswith(f"{path}.{index}.")}
            )
            with torch.inference_mode():
                for number, call in enumerate(calls):
                    with collector.received() as exact:
                        exact_states[number] = call.run(block, exact_states[number])
                    with collector.watching(
                        torch.zeros(packed_states[number].shape[:-1].numel(), dtype=torch.bool), exact
                    ):
                        call.run(block, packed_states[number])
            packed = {}
            for name, linear in collector.linears.items():
                method = methods[name]
                if method is None:
                    raise ValueError(
                        f"{name} is kept by the recipe: the walk of this benchmark quantizes every linear"
                    )
                stats = collector.stats(name)
                quantized = method.quantize(propagated(linear.weight.data, stats, recipe.propagation), stats)
                packed[name] = quantized.encode()
                stored, weights = stored + 8 * packed[name].nbytes, weights + linear.weight.numel()
                found = method.paper_bits(quantized)
                paper += linear.weight.numel() * (math.nan if found is None else found)
            tuned = (
                tune_block(
                    block, f"{path}.{index}", packed, calls, packed_states, exact_states, recipe.tuning
                )
                if recipe.tuning
                else None
            )
            for name, tensor in (packed if tuned is None else tuned.packed).items():
                self.linears[name].weight = nn.Parameter(
                    FORMATS[tensor.format].decode(tensor).dequantize(), requires_grad=False
                )
            for name, vector in ({} if tuned is None else tuned.vectors).items():
                self.model.get_parameter(name).data = vector
            with torch.inference_mode():
                packed_states = [
                    call.run(block, states) for call, states in zip(calls, packed_states, strict=True)
                ]
        return Count(
            stored,
            weights,
            paper,
            names_of({name: method for name, method in methods.items() if method is not None}),
        )


def names_of(methods: Mapping[str, Quantizer]) -> str:
    return " + ".join(dict.fromkeys(method.name for method in methods.values()))


def rules_of(recipe: Recipe) -> list[Any]:
    """What of a recipe decides the result, as JSON gives it back."""
    return json.loads(json.dumps(recipe.to_dict()["rules"]))
