"""Weights per second of the trellis search on one core, by window and bits per weight, and of quantizing
whole layers with it.

    python benchmarks/bench_search.py [--json F]

The native search is checked first against the reference search on a small block: the same values, symbols and
states. Then a block of normal weights is searched five times, and the best time counts; layers are quantized
with a random second moment, on all threads.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from bivlm.formats.encoding.trellis_code import MOST_BITS, standard_tables
from bivlm.native import library as native
from bivlm.quantizers.steps.viterbi import search_columns, search_reference
from bivlm.quantizers.trellis import Trellis
from bivlm.types import LinearStats
from machine import describe

BLOCKS = {8: (128, 1536), 12: (64, 1024), 16: (16, 512)}  # window → columns, rows
LAYERS = ((1536, 576), (576, 1536), (4096, 4096))


def block(columns: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, factor and states."""
    random = torch.Generator().manual_seed(0)
    u = torch.eye(columns) + 0.1 * torch.randn(columns, columns, generator=random).triu(1)
    return (
        30 * torch.randn(columns, rows, generator=random),
        u,
        torch.zeros(-(-rows // 64), dtype=torch.int32),
    )


def check() -> None:
    """SystemExit unless the native search takes the reference's paths."""
    w, u, state = block(2, 96)
    for k in range(1, MOST_BITS + 1):
        table = standard_tables(8)[k - 1]
        found, expected = search_columns(w, u, 8, k, table, state), search_reference(w, u, 8, k, table, state)
        if not all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)):
            raise SystemExit(f"the native search goes other ways than the reference with {k} bits")


def weights_per_second(window: int, k: int) -> float:
    columns, rows = BLOCKS[window]
    w, u, state = block(columns, rows)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        search_columns(w, u, window, k, standard_tables(window)[k - 1], state)
        best = min(best, time.perf_counter() - start)
    return columns * rows / best


def layer_seconds(shape: tuple[int, int]) -> float:
    random = torch.Generator().manual_seed(0)
    weight, x = (
        torch.randn(shape, generator=random) * 0.02,
        torch.randn(2 * shape[1], shape[1], generator=random),
    )
    stats = LinearStats({"text": x.T @ x / len(x)}, {"text": len(x)})
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        Trellis().quantize(weight, stats)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    check()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    search = {
        f"L = {window}, K = {k}": weights_per_second(window, k)
        for window in BLOCKS
        for k in range(1, MOST_BITS + 1)
    }
    torch.set_num_threads(threads)
    layers = {f"{rows} x {columns}": layer_seconds((rows, columns)) for rows, columns in LAYERS}
    status = native.status()
    print(f"{describe()}; {status.instruction_set or status.why}\n")
    for name, rate in search.items():
        print(f"{name:16} {rate / 1e6:8.2f} million weights / s on one core")
    for name, seconds in layers.items():
        print(f"{name:16} {seconds:8.3f} s to quantize with 2 bits, {threads} threads")
    if options.json:
        found = {
            "machine": describe(),
            "instruction_set": status.instruction_set,
            "weights_per_second": search,
            "layer_seconds": layers,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
