"""What several processes do for `bivlm quantize`: the embedded model packed by crews of one and two on this
machine, seconds by part; and, from rates measured on one core, what the parts of large models would take.

    python benchmarks/bench_scale.py                          a few minutes
    python benchmarks/bench_scale.py --json docs/results/scale.json

The processes of a crew share the machine's cores, one thread each: with fewer free cores than processes they
only slow each other down. The large models are computed, not run: docs/scale.md says how.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bivlm.calibration.moments import add_products, pieces
from bivlm.crew.dealing import deal
from bivlm.quantizers import Trellis
from bivlm.types import LinearStats
from bivlm.zoo import embedded_model
from machine import describe

TOKENS = 192_000  # of a calibration: 256 samples of 750
NETWORK = 1.25e9  # bytes per second between two machines: ten gigabits
PROCESSES = (1, 8, 64)


@dataclass(frozen=True)
class Input:
    """A tensor that linears share: its columns, the rows of these linears together, how many such inputs a
    block has, and the share of the tokens that reach each.
    """

    columns: int
    rows: tuple[int, ...]
    count: int = 1
    share: float = 1.0


SHAPES: dict[str, tuple[int, list[Input]]] = {  # blocks, inputs of a block
    "72 B": (
        80,
        [
            Input(8192, (8192, 1024, 1024)),
            Input(8192, (8192,)),
            Input(8192, (29568, 29568)),
            Input(29568, (8192,)),
        ],
    ),
    "235 B, experts as linears": (
        94,
        [
            Input(4096, (8192, 512, 512)),
            Input(8192, (4096,)),
            Input(4096, (1536, 1536), 128, 8 / 128),
            Input(1536, (4096,), 128, 8 / 128),
        ],
    ),
}


def seconds(work: Callable[[], object], calls: int = 5) -> float:
    """The shortest processor time of a call: other processes may have the core for the rest."""
    best = float("inf")
    for _ in range(calls):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def rates() -> dict[str, float]:
    """Operations per second of one core: 2 per product and sum."""
    torch.manual_seed(0)
    columns, tokens = 2048, 512
    rows = torch.randn(tokens, columns).bfloat16().float()
    total = torch.zeros(columns, columns)
    touched = sum((r.stop - r.start) * (c.stop - c.start) for r, c in pieces(columns, True))
    moment = seconds(lambda: add_products(total, rows, rows, torch.bfloat16))
    left, weight = torch.randn(tokens, columns).bfloat16(), torch.randn(columns, columns).bfloat16()
    forward = seconds(lambda: left @ weight.T)
    long = torch.randn(2 * columns, columns)
    stats = LinearStats({"all": long.T @ long / len(long)}, {"all": len(long)})
    low, high = (
        seconds(lambda out=out: Trellis(bits=2.0).quantize(torch.randn(out, columns), stats), 2)
        for out in (256, 1024)
    )
    per_row = (high - low) / (1024 - 256)
    return {
        "second moments": 2 * tokens * touched / moment,
        "forward passes": 2 * tokens * columns**2 / forward,
        "rows": columns**2 / per_row,
        "factorization": columns**3 / max(low - 256 * per_row, 1e-9),
    }


def predicted(blocks: int, inputs: list[Input], rate: dict[str, float], size: int) -> dict[str, float]:
    """Hours of `size` processes of one core each, by part; the longest share of a part counts."""
    sums, groups, forward, sent = [], [], 0.0, 0.0
    for one in inputs:
        tokens = TOKENS * one.share
        parts = [(r.stop - r.start) * (c.stop - c.start) for r, c in pieces(one.columns, True)]
        work = sum(one.rows) * one.columns
        own = len(one.rows) * one.columns**3 / rate["factorization"] + work * one.columns / rate["rows"]
        for _ in range(one.count):
            sums += [2 * tokens * part / rate["second moments"] for part in parts]
            groups.append(own)
        forward += one.count * 2 * 2 * tokens * work / rate["forward passes"]
        sent += one.count * (2 * tokens * one.columns + 4 * sum(parts))

    def longest(costs: list[float]) -> float:
        loads = [0.0] * size
        for rank, cost in zip(deal(costs, size), costs, strict=True):
            loads[rank] += cost
        return max(loads)

    hours = {
        "forward passes": forward / size,
        "second moments": longest(sums),
        "quantizing": longest(groups),
        "exchange": 0.0 if size == 1 else sent * (size - 1) / size / NETWORK,
    }
    return {name: blocks * value / 3600 for name, value in hours.items()}


def packed_by(size: int, out: Path, preset: str, samples: int) -> dict[str, float]:
    """Seconds by part of the first of `size` processes."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "bivlm", "quantize", str(embedded_model()), str(out)]
    command += ["--preset", preset, "--samples", str(samples), "--profile", "--json"]
    crew = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **crew, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    ended = [rank.communicate() for rank in ranks]
    for rank, (_, said) in zip(ranks, ended, strict=True):
        if rank.returncode:
            raise SystemExit(f"bench_scale: {said.splitlines()[-1] if said else rank.returncode}")
    return json.loads(ended[0][0])["seconds"]


def crews(preset: str, samples: int) -> dict[int, dict[str, float]]:
    """Seconds by part of crews of one and two, which have to give the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        outs = {size: Path(folder) / str(size) for size in (1, 2)}
        measured = {size: packed_by(size, out, preset, samples) for size, out in outs.items()}
        one, two = (
            {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
            for out in outs.values()
        )
    if one != two:
        raise SystemExit("bench_scale: two processes gave other bytes than one")
    return measured


def main(
    preset: Annotated[str, typer.Option(help="what the embedded model is packed with")] = "trellis-2",
    samples: Annotated[int, typer.Option(help="calibration questions")] = 32,
    run: Annotated[bool, typer.Option(help="run the crews; otherwise only the rates are measured")] = True,
    json_: Annotated[Path | None, typer.Option("--json", help="write the numbers to this file")] = None,
) -> None:
    """Measure, compute, print."""
    torch.set_num_threads(1)
    measured = crews(preset, samples) if run else {}
    rate = rates()
    large = {
        name: {size: predicted(blocks, inputs, rate, size) for size in PROCESSES}
        for name, (blocks, inputs) in SHAPES.items()
    }
    show(measured, rate, large)
    if json_ is not None:
        numbers = {"machine": describe(), "preset": preset, "samples": samples, "seconds": measured}
        json_.write_text(json.dumps({**numbers, "rates": rate, "hours": large}, indent=1) + "\n")


def show(
    measured: dict[int, dict[str, float]],
    rate: dict[str, float],
    large: dict[str, dict[int, dict[str, float]]],
) -> None:
    console = Console(width=110)
    if measured:
        table = Table("part", *(f"{size} process{'es' if size > 1 else ''}, s" for size in measured))
        for name in dict.fromkeys(name for own in measured.values() for name in own):
            table.add_row(name, *(f"{own.get(name, 0.0):.2f}" for own in measured.values()))
        table.add_row("together", *(f"{sum(own.values()):.2f}" for own in measured.values()))
        console.print(table)
    console.print({name: f"{value / 1e9:.1f} G/s" for name, value in rate.items()})
    table = Table("model", "processes", *next(iter(next(iter(large.values())).values())), "together, h")
    for name, rows in large.items():
        for size, hours in rows.items():
            cells = (f"{value:.1f}" for value in (*hours.values(), sum(hours.values())))
            table.add_row(name, str(size), *cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
