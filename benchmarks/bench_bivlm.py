"""How fast Bi-VLM is: weights per second that one core quantizes and encodes, for a Gaussian layer and
several settings.

    python benchmarks/bench_bivlm.py [--size 4096] [--repeats 3] [--json results.json]

Before a setting is timed, its result is checked: what is decoded is what was encoded, and the error J is that
of the closed form for a Gaussian at the share of salient weights that the search chose. Times are medians.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor

from bivlm.formats import LevelsWeight
from bivlm.quantizers import BiVLM
from machine import describe

SETTINGS = {
    "default, no data": BiVLM(),
    "1 band": BiVLM(bands=1),
    "5 bands": BiVLM(bands=5),
    "tail up to 5 %": BiVLM(salient_max=0.05),
    "tail of the paper": BiVLM(salient_levels="paper"),
    "no tail": BiVLM(salient_max=0.0),
    "per row": BiVLM(granularity="row"),
    "per group of 128": BiVLM(granularity="group", group_size=128),
}
TOLERANCE = {
    "layer": 0.02,
    "row": 0.03,
    "group": 0.06,
}  # finer scopes fit their own weights, a little better than the Gaussian


def moments(low: float, high: float) -> tuple[float, float, float]:
    """Probability, first and second moment of |w| between two magnitudes, w from N(0, 1)."""
    edge_low, edge_high = low * norm.pdf(low), high * norm.pdf(high) if math.isfinite(high) else 0.0
    mass = 2 * (norm.cdf(high) - norm.cdf(low))
    return mass, 2 * (norm.pdf(low) - norm.pdf(high)), mass + 2 * (edge_low - edge_high)


def one_level_error(low: float, high: float) -> float:
    mass, first, second = moments(low, high)
    return second - first * first / mass if mass > 0 else 0.0


def closed_form(bands: int, salient: float) -> float:
    """J of N(0, 1): bands of equal probability with their means, and the best two magnitudes for a tail of
    the share `salient`.
    """
    edges = norm.ppf((1 + (1 - salient) * torch.arange(bands + 1).numpy() / bands) / 2)
    inside = sum(one_level_error(low, high) for low, high in pairwise(edges))
    if not salient:
        return inside
    cut = edges[-1]
    return (
        inside
        + minimize_scalar(
            lambda t: one_level_error(cut, t) + one_level_error(t, math.inf),
            bounds=(cut, cut + 3),
            method="bounded",
        ).fun
    )


def check(name: str, layer: Tensor, method: BiVLM, quantized: LevelsWeight) -> tuple[float, float]:
    """J and bits per weight; ends the run when the result is not what it must be."""
    packed = quantized.encode()
    if LevelsWeight.decode(packed) != quantized:
        raise SystemExit(f"{name}: what was decoded is not what was encoded")
    found = float((layer - quantized.dequantize()).double().square().sum() / layer.double().square().sum())
    expected, tolerance = (
        closed_form(method.bands, len(quantized.tail_positions) / layer.numel()),
        TOLERANCE[method.granularity],
    )
    most = (
        closed_form(method.bands, 0.0) if method.salient_levels == "paper" else expected
    )  # the letter's tail levels have no closed form and are worse
    if not expected * (1 - tolerance) <= found <= most * (1 + tolerance):
        raise SystemExit(f"{name}: J is {found:.5f}; the closed form is {expected:.5f}")
    return found, packed.bits_per_weight()


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, method: BiVLM, layer: Tensor, repeats: int) -> dict[str, Any]:
    quantized = method.quantize(layer, None)
    j, bits = check(name, layer, method, quantized)
    return {
        "settings": name,
        "j": j,
        "salient": len(quantized.tail_positions) / layer.numel(),
        "bits": bits,
        "quantize_weights_per_s": (
            layer.numel() / median_seconds(lambda: method.quantize(layer, None), repeats)
        ),
        "encode_weights_per_s": layer.numel() / median_seconds(quantized.encode, repeats),
    }


def table_of(rows: list[dict[str, Any]], caption: str) -> Table:
    table = Table(title="Bi-VLM on one core", caption=caption)
    for column in (
        "settings",
        "J",
        "salient",
        "bits",
        "quantize, million weights / s",
        "encode, million weights / s",
    ):
        table.add_column(column, justify="left" if column == "settings" else "right")
    for row in rows:
        speeds = (f"{row[f'{name}_weights_per_s'] / 1e6:.1f}" for name in ("quantize", "encode"))
        table.add_row(
            row["settings"], f"{row['j']:.4f}", f"{row['salient']:.2%}", f"{row['bits']:.4f}", *speeds
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the layer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layer = torch.randn(options.size, options.size, generator=torch.Generator().manual_seed(0))
    rows = [measure(name, method, layer, options.repeats) for name, method in SETTINGS.items()]
    Console().print(
        table_of(rows, f"{options.size} x {options.size} Gaussian, median of {options.repeats}; {describe()}")
    )
    if options.json:
        options.json.write_text(
            json.dumps(
                {"machine": describe(), "size": options.size, "repeats": options.repeats, "rows": rows},
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
