"""Weights per second of the trellis search on one core, by window and bits per weight, and of quantizing
whole layers with it.

    python benchmarks/bench_search.py [--device cuda] [--json F] [--markdown F]

The search is checked first against the reference search on a small block: the same values, symbols and
states. Then a block of normal weights is searched five times, and the best time counts; layers are quantized
with a random second moment, on all threads. On a card the block has sixteen times as many rows, for all of
its processors.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from bivlm.formats.encoding.trellis_checks import MOST_BITS
from bivlm.formats.encoding.trellis_code import standard_tables
from bivlm.native import library as native
from bivlm.quantizers.steps.viterbi import search_columns, search_reference
from bivlm.quantizers.trellis import Trellis
from bivlm.types import LinearStats
from card import describe_card, require_card
from machine import describe

BLOCKS = {8: (128, 1536), 12: (64, 1024), 16: (16, 512)}  # window → columns, rows
LAYERS = ((1536, 576), (576, 1536), (4096, 4096))


def block(columns: int, rows: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, factor and states, on a device."""
    random = torch.Generator().manual_seed(0)
    u = torch.eye(columns) + 0.1 * torch.randn(columns, columns, generator=random).triu(1)
    w, state = (
        30 * torch.randn(columns, rows, generator=random),
        torch.zeros(-(-rows // 64), dtype=torch.int32),
    )
    return w.to(device), u.to(device), state.to(device)


def now(device: str) -> float:
    """Seconds, once the device has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def check(device: str) -> None:
    """SystemExit unless the search on a device takes the reference's paths."""
    given, (w, u, state) = block(2, 96, device), block(2, 96, "cpu")
    for k in range(1, MOST_BITS + 1):
        table = standard_tables(8)[k - 1]
        found = search_columns(given[0], given[1], 8, k, table.to(device), given[2])
        expected = search_reference(w, u, 8, k, table, state)
        if not all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True)):
            raise SystemExit(f"the search on {device} goes other ways than the reference with {k} bits")


def weights_per_second(window: int, k: int, device: str) -> float:
    columns, rows = BLOCKS[window]
    rows = rows if device == "cpu" else 16 * rows
    w, u, state = block(columns, rows, device)
    table, best = standard_tables(window)[k - 1].to(device), float("inf")
    for _ in range(5):
        start = now(device)
        search_columns(w, u, window, k, table, state)
        best = min(best, now(device) - start)
    return columns * rows / best


def layer_seconds(shape: tuple[int, int], device: str) -> float:
    random = torch.Generator().manual_seed(0)
    weight, x = (
        torch.randn(shape, generator=random) * 0.02,
        torch.randn(2 * shape[1], shape[1], generator=random),
    )
    stats = LinearStats({"text": x.T @ x / len(x)}, {"text": len(x)}).to(device)
    weight = weight.to(device)
    best = float("inf")
    for _ in range(3):
        start = now(device)
        Trellis().quantize(weight, stats)
        best = min(best, now(device) - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()
    device = options.device
    if device != "cpu":
        require_card("bench_search")
    check(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    search = {
        f"L = {window}, K = {k}": weights_per_second(window, k, device)
        for window in BLOCKS
        for k in range(1, MOST_BITS + 1)
    }
    torch.set_num_threads(threads)
    layers = {f"{rows} x {columns}": layer_seconds((rows, columns), device) for rows, columns in LAYERS}
    status = native.status()
    where = f"{describe()}; {status.instruction_set or status.why}" if device == "cpu" else describe_card()
    core, all_ = ("one core", f"{threads} threads") if device == "cpu" else ("the card", "on the card")
    lines = [f"{name:16} {rate / 1e6:8.2f} million weights / s on {core}" for name, rate in search.items()]
    lines += [
        f"{name:16} {seconds:8.3f} s to quantize with 2 bits, {all_}" for name, seconds in layers.items()
    ]
    print("\n".join([f"{where}\n", *lines]))
    if options.markdown:
        page = ["# The trellis search", "", f"{where}.", "", *(f"    {line}" for line in lines), ""]
        options.markdown.write_text("\n".join(page), encoding="utf-8")
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
