"""How fast the kernels are: every format and width, against torch's products and llama.cpp's, and against
what the memory gives.

    python benchmarks/bench_kernels.py [--json docs/results/kernels.json] [--markdown docs/results/kernels.md]
        [--ggml FOLDER] [--quick] [--device cuda]

Every product is checked before it is timed: its largest error against float64 arithmetic with the same weight
and the same x, as a share of the largest output. All that is compared runs in turns in one process, five
rounds of them (three for many tokens), and the smallest time counts, because others may use the machine.
Weights are random and each call takes another copy (contenders.py). llama.cpp's kernels are timed where its
libraries are found: with `pip install llama-cpp-python`, or in the folder that --ggml names.

With `--device cuda` the same on a card (card_contenders.py), x in bfloat16, timed by the card's events: in a
CUDA graph, which is how a model should run, and as Python launches it. Without a card: exit code 2.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import card
from bivlm.native import library as native
from card_contenders import card_contenders
from contenders import Contender, bivlm_contenders, cache_bytes, llama_contenders, torch_contenders
from ggml import Ggml, find_ggml
from kernel_tables import card_markdown, markdown
from machine import describe

SHAPES = ((576, 576), (2048, 2048), (4096, 4096), (11008, 4096), (4096, 11008))
QUICK_SHAPES = ((2048, 2048), (4096, 4096))
BATCHES = (1, 4, 16, 256)
QUICK_BATCHES = (1, 16)
MANY = 64  # tokens from which on one copy of the weight is enough: it is read once and computed with for long
# Largest errors, of the largest output. torch's and llama.cpp's are there to see that they were called
# rightly.
ERRORS = {
    ("bivlm", "float32"): 1e-5,
    ("bivlm", "bfloat16"): 1e-2,
    ("bivlm", "int8"): 2e-2,
    ("torch", "float32"): 1e-5,
}
CARD_SHAPES = ((2048, 2048), (4096, 4096), (11008, 4096))
CARD_CALLS = 20  # in a graph at least
OTHER_ERROR = 5e-2
READ_BYTES = 1 << 29
Row = dict[str, Any]


def bandwidth(buffer: Tensor, times: int = 3) -> float:
    """Bytes per second that all threads read together, the best of some passes over a buffer that no cache
    holds.
    """
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        buffer.amax()
        taken.append(time.perf_counter() - start)
    return buffer.nbytes / min(taken)


def relative_error(contender: Contender, x: Tensor) -> float:
    """SystemExit when it is too large for a product that is worth timing."""
    rows, weight = contender.weight()
    exact = x.double() @ weight.double().T
    found = contender.output(x)[:, rows].double()
    error = float((found - exact).abs().max() / exact.abs().max())
    if not error < ERRORS.get((contender.family, contender.activations), OTHER_ERROR):
        raise SystemExit(
            f"{contender.family} {contender.name} with {contender.activations} activations is wrong: an error"
            f" of {error:.1e}"
        )
    return error


def smallest_times(
    contenders: list[Contender], inputs: dict[torch.dtype, Tensor], rounds: int
) -> list[float]:
    """Seconds per product, in turns."""
    best = [float("inf")] * len(contenders)
    for _ in range(rounds):
        for i, contender in enumerate(contenders):
            x = inputs[contender.dtype]
            calls = 1 if len(x) >= MANY else contender.copies
            start = time.perf_counter()
            contender.run(x, calls)
            best[i] = min(best[i], (time.perf_counter() - start) / calls)
    return best


def measure(
    shape: tuple[int, int], batches: tuple[int, ...], ggml: Ggml | None, rounds: int
) -> Iterator[Row]:
    """One shape: all contenders, at every batch."""
    contenders = [
        *torch_contenders(shape),
        *bivlm_contenders(shape),
        *(llama_contenders(ggml, shape) if ggml else ()),
    ]
    x = torch.randn(max(batches), shape[1], generator=torch.Generator().manual_seed(1))
    for batch in batches:
        inputs = {dtype: x[:batch].to(dtype) for dtype in (torch.float32, torch.bfloat16)}
        # with many tokens every packed weight is unpacked and multiplied by torch, in x's dtype: once is
        # enough
        chosen = [c for c in contenders if batch < MANY or c.family != "bivlm" or c.activations == "bfloat16"]
        errors = [relative_error(contender, inputs[contender.dtype]) for contender in chosen]
        times = smallest_times(chosen, inputs, rounds if batch < MANY else min(rounds, 3))
        bf16 = next(
            seconds for contender, seconds in zip(chosen, times, strict=True) if contender.name == "bfloat16"
        )
        for contender, error, seconds in zip(chosen, errors, times, strict=True):
            yield {
                "shape": list(shape),
                "batch": batch,
                "family": contender.family,
                "name": contender.name,
                "activations": contender.activations,
                "bits": contender.bits,
                "bytes": contender.nbytes,
                "error": error,
                "seconds": seconds,
                "times_bf16": bf16 / seconds,
            }


def measure_card(shape: tuple[int, int], batches: tuple[int, ...], rounds: int) -> Iterator[Row]:
    """One shape on a card: all contenders, one after the other, at every batch."""
    x = torch.randn(max(batches), shape[1], generator=torch.Generator().manual_seed(1)).bfloat16().cuda()
    bf16: dict[int, float] = {}
    for contender in card_contenders(shape):
        for batch in batches:
            given = x[:batch].contiguous()
            calls = max(CARD_CALLS, contender.copies) if batch < MANY else 4
            error, work = relative_error(contender, given), partial(contender.run, given, calls)
            eager = card.seconds_of(work, rounds) / calls
            graph = card.captured(work)
            seconds = eager if graph is None else card.seconds_of(graph, rounds) / calls
            bf16.setdefault(batch, seconds)  # torch's comes first
            yield {
                "shape": list(shape),
                "batch": batch,
                "family": contender.family,
                "name": contender.name,
                "activations": contender.activations,
                "bits": contender.bits,
                "bytes": contender.nbytes,
                "error": error,
                "seconds": seconds,
                "seconds_eager": eager,
                "graph": graph is not None,
                "times_bf16": bf16[batch] / seconds,
            }


def run_card(shapes: tuple[tuple[int, int], ...], batches: tuple[int, ...], rounds: int) -> dict[str, Any]:
    rates, rows = [card.bandwidth()], []
    for shape in shapes:
        rows += measure_card(shape, batches, rounds)
        rates.append(card.bandwidth())
        torch.cuda.empty_cache()
    for row in rows:
        row["share_of_memory"] = row["bytes"] / row["seconds"] / max(rates)
    return {"machine": card.describe_card(), "bytes_per_second": max(rates), "rows": rows}


def run(
    shapes: tuple[tuple[int, int], ...], batches: tuple[int, ...], ggml: Ggml | None, rounds: int
) -> dict[str, Any]:
    buffer = torch.ones(READ_BYTES // 4)
    rates, rows = [bandwidth(buffer)], []
    with Progress() as progress:
        for shape in progress.track(shapes, description="shapes"):
            rows += measure(shape, batches, ggml, rounds)
            rates.append(bandwidth(buffer))
    for row in rows:
        row["share_of_memory"] = row["bytes"] / row["seconds"] / max(rates)
    status = native.status()
    return {
        "machine": describe(),
        "instruction_set": status.instruction_set or status.why,
        "llama_cpp": ggml.name if ggml else None,
        "bytes_per_second": max(rates),
        "cache_bytes": cache_bytes(),
        "rows": rows,
    }


def print_batch(rows: list[Row], shape: tuple[int, int], batch: int) -> None:
    table = Table(
        "",
        "x",
        "bits",
        "µs",
        "times torch bf16",
        "share of memory",
        "error",
        title=f"{shape[0]} x {shape[1]}, {batch} tokens",
    )
    for row in rows:
        if row["shape"] == list(shape) and row["batch"] == batch:
            numbers = (
                f"{row['bits']:.2f}",
                f"{row['seconds'] * 1e6:.0f}",
                f"{row['times_bf16']:.2f}",
                f"{row['share_of_memory']:.0%}",
            )
            table.add_row(
                f"{row['family']} {row['name']}", row["activations"], *numbers, f"{row['error']:.0e}"
            )
    Console(width=140).print(table)


def report(
    found: dict[str, Any],
    shapes: tuple[tuple[int, int], ...],
    batches: tuple[int, ...],
    options: argparse.Namespace,
    page: Callable[[dict[str, Any]], str],
) -> None:
    """Print the tables, and write what was asked for."""
    for shape in shapes:
        for batch in batches:
            print_batch(found["rows"], shape, batch)
    instructions = f"; {found['instruction_set']}" if "instruction_set" in found else ""
    print(f"{found['machine']}{instructions}; memory is read at {found['bytes_per_second'] / 1e9:.1f} GB/s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(page(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument(
        "--ggml", type=Path, help="folder of libggml*.so; left out: that of an installed llama-cpp-python"
    )
    parser.add_argument("--shapes", nargs="+", metavar="ROWSxCOLUMNS", help="left out: five shapes")
    parser.add_argument("--batches", type=int, nargs="+", help="left out: 1, 4, 16 and 256 tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two shapes, 1 and 16 tokens, two rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.device == "cuda":
        card.require_card("bench_kernels")
    transformers.logging.set_verbosity_error()
    shapes, batches, rounds = (
        (QUICK_SHAPES, QUICK_BATCHES, 2) if options.quick else (SHAPES, BATCHES, options.rounds)
    )
    if options.shapes:
        shapes = tuple(tuple(map(int, shape.split("x"))) for shape in options.shapes)
    elif options.device == "cuda" and not options.quick:
        shapes = CARD_SHAPES
    batches = tuple(options.batches or batches)
    if options.device == "cuda":
        with torch.inference_mode():
            report(run_card(shapes, batches, rounds), shapes, batches, options, card_markdown)
        return
    folder = find_ggml(options.ggml)
    if folder is None:
        print(
            "llama.cpp's libraries are not here, and its columns are left out: pip install llama-cpp-python,"
            " or --ggml FOLDER"
        )
    with torch.inference_mode():
        found = run(shapes, batches, Ggml(folder, torch.get_num_threads()) if folder else None, rounds)
    report(found, shapes, batches, options, markdown)


if __name__ == "__main__":
    main()
