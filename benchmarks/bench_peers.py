"""How fast the peers quantize: weights per second on one linear, and what the searches of BiLLM gain over
their definition.

    python benchmarks/bench_peers.py [--rows 576] [--columns 1536] [--json results.json]

Checks first: the fast searches must find what their definition finds. Times are the best of three after a
warm-up; the ratio is taken in one run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table

import partition_by_definition
from bivlm.job.presets import preset_names
from bivlm.job.recipe import build_quantizer, load_recipe
from bivlm.quantizers.billm import BiLLM
from bivlm.quantizers.steps import sign_planes
from bivlm.types import LinearStats
from machine import describe

TO_THE_LETTER = BiLLM(scale_bits=32, error_rule="diagonal", salience="hessian")


def layer(rows: int, columns: int) -> tuple[torch.Tensor, LinearStats]:
    """A seeded weight, and inputs that share a few directions."""
    random = torch.Generator().manual_seed(0)
    shared = torch.randn(4 * columns, columns // 16, generator=random) @ torch.randn(
        columns // 16, columns, generator=random
    )
    x = shared / (columns // 16) ** 0.5 + torch.randn(4 * columns, columns, generator=random)
    return 0.02 * torch.randn(rows, columns, generator=random), LinearStats(
        {"text": x.T @ x / len(x)}, {"text": len(x)}
    )


def best_of_three(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main(
    rows: Annotated[int, typer.Option(help="rows of the linear")] = 576,
    columns: Annotated[int, typer.Option(help="its columns")] = 1536,
    json_: Annotated[Path | None, typer.Option("--json", help="write the numbers here as well")] = None,
) -> None:
    """Measure every preset, and BiLLM with and without its fast searches."""
    weight, stats = layer(rows, columns)
    slow_searches = {
        name: getattr(partition_by_definition, name) for name in ("salient_columns", "magnitude_threshold")
    }
    with patch.multiple(sign_planes, **slow_searches):
        expected = TO_THE_LETTER.quantize(weight, stats)
        start = time.perf_counter()
        TO_THE_LETTER.quantize(weight, stats)
        slow = time.perf_counter() - start
    if TO_THE_LETTER.quantize(weight, stats) != expected:
        raise SystemExit("the fast searches of BiLLM do not find what their definition finds")
    fast = best_of_three(lambda: TO_THE_LETTER.quantize(weight, stats))
    found: dict[str, float] = {}
    for name in preset_names():
        rule = load_recipe(name).rule_for("language", "linear")
        assert rule is not None
        method = build_quantizer(rule)
        method.quantize(weight[:64], stats)
        found[name] = weight.numel() / best_of_three(
            lambda method=method: method.quantize(weight, stats if method.needs_data else None)
        )
    table = Table("preset", "million weights / s", title=f"{rows} x {columns}", caption=describe())
    for name, rate in sorted(found.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{rate / 1e6:.2f}")
    Console(width=120).print(table)
    fast, slow = fast * 1e6 / weight.numel(), slow * 1e6 / weight.numel()
    print(
        f"BiLLM to the letter: {fast:.2f} s per million weights; with its searches by definition {slow:.2f}:"
        f" {slow / fast:.1f}x"
    )
    if json_:
        content = {
            "rows": rows,
            "columns": columns,
            "weights_per_second": found,
            "billm_seconds_per_million": fast,
            "by_definition": slow,
        }
        json_.write_text(json.dumps({**content, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
