"""What a packed model takes on a small device: bits, bytes in memory, the cache, adapters, the library.

    make arm
    python benchmarks/bench_device.py --json docs/results/device.json --markdown docs/results/device.md

The embedded model, all parts packed at 1.8 bits per weight, calibrated on 32 questions of easy-VQA. Memory is
what the tensors of the model and the kernels hold after an answer, without Python and torch. Adapters have
random factors, since sizes and switching do not depend on their values: `--adapters` of them with a budget of
0.1 bits per packed weight, in eight bits. The time of switching is given as a share of loading the model. A
prompt has 64 visual tokens; the cache holds its keys and values. The library is that of `make arm`, stripped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

import bivlm
import machine
from bivlm.adapters.identity import base_identity
from bivlm.adapters.lora import Factors, attach
from bivlm.adapters.store import Record, read_adapter, write_adapter
from bivlm.adapting.settings import AdaptSettings, target_shapes
from bivlm.checkpoint.durable import write_text
from bivlm.data.samples import Sample, read_samples
from bivlm.errors import InputError
from bivlm.eval.answer import answer_batch, inference, prepare
from bivlm.eval.inspection import inspect
from bivlm.families import family_of
from bivlm.packed.module import prepared_bytes
from bivlm.pruning.apply import prune
from bivlm.pruning.dropping.cache import cache_argument, cache_bytes
from bivlm.zoo import embedded_model
from preset_tables import command_of, markdown_table, positive, print_table
from script import run_script

BITS, DATA, CALIBRATION, BUDGET, TURNS = 1.8, "easy-vqa", 32, 0.1, 5
PRUNINGS = (
    "attention:layer=2,keep=0.25,attending=last",
    "attention:layer=2,keep=0.05,attending=last",
)
COLUMNS = ("what", " measured", " share", "of what")


def tensor_bytes(model: nn.Module) -> int:
    """The bytes of the parameters and buffers of a model, shared ones once, and of what kernels prepared."""
    held: Iterable[Tensor] = (*model.parameters(), *model.buffers())
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return sum(storages.values()) + prepared_bytes(model)


def answered(folder: Path, sample: Sample) -> tuple[Any, Any]:
    """The model and processor of a folder after one answer."""
    model, processor = bivlm.load(folder)
    answer_batch(model, processor, family_of(model.config), [sample], max_new_tokens=4)
    return model, processor


def prompt_cache(model: Any, processor: Any, sample: Sample) -> int:
    """The bytes of the keys and values of one prompt."""
    cache = DynamicCache(config=model.config.text_config)
    with inference(model):
        inputs = prepare(model, processor, family_of(model.config), [sample])
        model(**inputs, **cache_argument(model, cache), use_cache=True, logits_to_keep=1)
    return cache_bytes(cache)


def random_adapter(model: Any, base: Path, out: Path, seed: int) -> None:
    """An adapter folder as `bivlm adapt --budget-bits` writes it, with random factors."""
    shapes = target_shapes(model, "*")
    ranks = AdaptSettings(budget_bits=BUDGET).ranks(shapes, inspect(base).total.weights)
    draw = torch.Generator().manual_seed(seed)
    adapter = {
        name: Factors(
            torch.randn(rank, shapes[name][1], generator=draw) / shapes[name][1] ** 0.5,
            torch.randn(shapes[name][0], rank, generator=draw) / 100,
            1.0,
        )
        for name, rank in ranks.items()
    }
    out.mkdir(exist_ok=True)
    write_adapter(out, adapter, Record(base_identity(base), 8, "random", {}, "", {}))


def seconds(work: Callable[[], Any]) -> float:
    """The median time of a call."""
    taken = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def library_bytes(options: argparse.Namespace, work: Path) -> int:
    """The bytes of the ARM library without its symbol table. InputError if it was not built, or without the
    program that strips it.
    """
    if not options.library.is_file():
        raise InputError(f"there is no {options.library}; run `make arm`, or name the library in --library")
    if shutil.which(options.strip) is None:
        raise InputError(f"there is no program {options.strip}; name another one in --strip")
    out = work / "stripped.so"
    subprocess.run([options.strip, "-o", out, options.library], check=True)
    return out.stat().st_size


def adapter_rows(model: Any, base: Path, options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Sizes of the adapters, and what it takes to switch between them."""
    folders = [work / f"adapter-{number}" for number in range(options.adapters)]
    for seed, folder in enumerate(folders):
        random_adapter(model, base, folder, seed)
    packed = folder_bytes(base)
    waiting = iter(folders * TURNS)
    loading = seconds(lambda: bivlm.load(base))
    switching = seconds(lambda: attach(model, read_adapter(next(waiting), model, base)))
    return [
        row("one adapter of 0.1 bits", folder_bytes(folders[0]), packed, "the packed folder"),
        row(
            f"base and {len(folders)} adapters",
            packed + sum(map(folder_bytes, folders)),
            (1 + len(folders)) * packed,
            f"{1 + len(folders)} packed folders",
        ),
        {
            "what": "switching to another adapter, checks included",
            "measured": None,
            "share": switching / loading,
            "of": "the time to load the packed model",
        },
    ]


def row(what: str, size: int, whole: int, of: str) -> dict[str, Any]:
    return {"what": what, "measured": size, "share": size / whole, "of": of}


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """True bits, and a row for everything else."""
    library = library_bytes(options, work)
    sample = read_samples(DATA, split="test", limit=1)[0]
    calibration = read_samples(DATA, split="train", limit=CALIBRATION, seed=0)
    base = bivlm.quantize(embedded_model(), work / "packed", bits=BITS, data=calibration)
    full, _ = answered(embedded_model(), sample)
    model, processor = answered(base, sample)
    found, whole = inspect(base), prompt_cache(model, processor, sample)
    rows = [
        row("folder", found.folder_bytes_after, found.folder_bytes_before, "the folder in 16 bits"),
        row("memory of model and kernels", tensor_bytes(model), tensor_bytes(full), "16 bits"),
        row("keys and values of a prompt", whole, whole, "the whole prompt"),
    ]
    for pruning in PRUNINGS:
        prune(model, pruning)
        rows.append(
            row(f"with `{pruning}`", prompt_cache(model, processor, sample), whole, "the whole prompt")
        )
    prune(model, None)
    rows += adapter_rows(model, base, options, work)
    rows.append(row("ARM library, all formats and the search", library, library, "itself"))
    return {"bits": found.total.bits_per_weight, "rows": rows}


def cells(found: dict[str, Any]) -> list[str]:
    size = "" if found["measured"] is None else f"{found['measured'] / 1000:,.1f} kB"
    if found["of"] == "itself":
        return [found["what"], size, "", ""]
    return [found["what"], size, f"{found['share']:.1%}", found["of"]]


def markdown(result: dict[str, Any]) -> str:
    lines = [
        "# On a small device",
        "",
        (
            f"The embedded model, all parts packed with `--bits {BITS}`: {result['bits']:.3f} true bits per"
            " weight. What the rows mean stands in `benchmarks/bench_device.py`;"
            " [the page](../on-device.md) says what they are worth."
        ),
        "",
        *markdown_table(COLUMNS, map(cells, result["rows"])),
        "",
        f"Machine: {machine.describe()}. Commands:",
        "",
        "    make arm",
        f"    {command_of('bench_device.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def report(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        if options.work:
            options.work.mkdir(parents=True, exist_ok=True)
        result = measure(options, options.work or Path(temporary))
    print_table(f"{result['bits']:.3f} true bits", COLUMNS, map(cells, result["rows"]), machine.describe())
    if options.json:
        write_text(options.json, json.dumps({"machine": machine.describe(), **result}, indent=1) + "\n")
    if options.markdown:
        write_text(options.markdown, markdown(result))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, default=Path("build/arm64/libbivlm_kernels.so"))
    parser.add_argument("--strip", default="aarch64-linux-gnu-strip", help="the program that strips it")
    parser.add_argument("--adapters", type=positive, default=4)
    parser.add_argument("--work", type=Path, help="keep the packed model and the adapters here")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, help="write the measurements here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    run_script("bench_device", parser.parse_args(), report)


if __name__ == "__main__":
    main()
