"""What a setting of Bi-VLM costs and what it loses: true bits per weight and relative layer error of single linears.

    python benchmarks/bench_layers.py [--layers layers.safetensors] [--json results.json] [--markdown results.md] [--title TEXT]

The error is tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ), with H the second moment of what the linear receives: the share of its output's energy that is lost.
Bits are those of the packed tensors, everything counted. The file holds NAME.weight (out, in) and NAME.second_moment (in, in) for every linear;
without one, seeded synthetic layers with correlated inputs are made. H is what is compensated with and what is measured with.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from bivlm.formats import LevelsWeight
from bivlm.quantizers import BiVLM
from bivlm.types import LinearStats
from machine import describe

BANDS = (1, 2, 3, 5)
KINDS: dict[str, dict[str, Any]] = {
    "letter": {"salient_levels": "paper"},
    "Lloyd tail": {},
    "per row": {"granularity": "row"},
    "per group of 128": {"granularity": "group", "group_size": 128},
}
SETTINGS = {
    (kind, bands, compensated): BiVLM(bands=bands, compensate=compensated, **fields)
    for kind, fields in KINDS.items()
    for compensated in (False, True)
    for bands in BANDS
    if not (kind == "letter" and compensated)  # the paper uses no data
}

Layers = dict[str, tuple[Tensor, Tensor]]


def layers_of(path: Path) -> Layers:
    tensors = load_file(path)
    names = sorted(name.removesuffix(".weight") for name in tensors if name.endswith(".weight"))
    missing = [name for name in names if f"{name}.second_moment" not in tensors]
    if missing or not names:
        raise SystemExit(f"{path}: needs NAME.weight and NAME.second_moment for every linear; missing for: {', '.join(missing) or 'all'}")
    return {name: (tensors[f"{name}.weight"], tensors[f"{name}.second_moment"].float()) for name in names}


def synthetic_layers() -> Layers:
    """Gaussian rows of unequal scale; inputs that share a few directions; in the second layer two channels that are thirty times as large."""
    layers = {}
    for seed, (name, rows, columns, outlier) in enumerate(
        [("even inputs", 384, 512, 1.0), ("massive channels", 384, 512, 30.0), ("wide", 256, 1024, 1.0)]
    ):
        random = torch.Generator().manual_seed(seed)
        weight = torch.randn(rows, columns, generator=random) * torch.empty(rows, 1).log_normal_(0, 0.3, generator=random)
        shared = (
            torch.randn(4 * columns, columns // 16, generator=random) @ torch.randn(columns // 16, columns, generator=random) / (columns // 16) ** 0.5
        )
        x = shared + torch.randn(4 * columns, columns, generator=random)
        x[:, :2] *= outlier
        layers[name] = (0.02 * weight, x.T @ x / len(x))
    return layers


def energy(difference: Tensor, hessian: Tensor) -> float:
    difference, hessian = difference.double(), hessian.double()
    return float(((difference @ hessian) * difference).sum())


def measure(method: BiVLM, weight: Tensor, hessian: Tensor) -> dict[str, float]:
    stats = LinearStats(second_moments={"text": hessian}, tokens={"text": 1}) if method.needs_data else None
    start = time.perf_counter()
    quantized = method.quantize(weight, stats)
    seconds = time.perf_counter() - start
    packed = quantized.encode()
    if LevelsWeight.decode(packed) != quantized:
        raise SystemExit(f"{method}: what was decoded is not what was encoded")
    w = weight.float()
    return {"error": energy(w - quantized.dequantize(), hessian) / energy(w, hessian), "bits": packed.bits_per_weight(), "seconds": seconds}


def rows_of(layers: Layers) -> list[dict[str, Any]]:
    rows = []
    for (kind, bands, compensated), method in SETTINGS.items():
        found = {name: measure(method, weight, hessian) for name, (weight, hessian) in layers.items()}
        weights = {name: weight.numel() for name, (weight, _) in layers.items()}
        bits = sum(found[name]["bits"] * count for name, count in weights.items()) / sum(weights.values())
        rows.append({"kind": kind, "bands": bands, "compensated": compensated, "bits": bits, "layers": found})
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    errors = [f"{layer['error']:.4f}" if layer["error"] < 10 else f"{layer['error']:.1f}" for layer in row["layers"].values()]
    return [row["kind"], str(row["bands"]), "yes" if row["compensated"] else "no", f"{row['bits']:.3f}", *errors]


def header(layers: Layers) -> list[str]:
    return ["setting", "bands", "error feedback", "true bits", *layers]


def markdown(title: str, rows: list[dict[str, Any]], layers: Layers) -> str:
    names = header(layers)
    shapes = "; ".join(f"`{name}` {weight.shape[0]} x {weight.shape[1]}" for name, (weight, _) in layers.items())
    lines = [
        "# Layer errors of Bi-VLM",
        "",
        f"Relative layer error tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ), lower is better, on {title} (out x in): {shapes}.",
        "True bits are the stored bits of the packed tensors over the weights of all layers, everything counted.",
        "Error feedback uses the same second moments that the error is measured with.",
        "All settings but the named ones are the defaults: a salient share of at most 1 %.",
        "",
        "| " + " | ".join(names) + " |",
        "|" + "|".join("---" if place in (0, 2) else "---:" for place in range(len(names))) + "|",
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
        f"Machine: {describe()}. Command:",
        "",
        f"    {command_of(sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def command_of(argv: list[str]) -> str:
    """The command as anyone could type it: files elsewhere by their names."""
    return shlex.join(["python", "benchmarks/bench_layers.py", *(Path(part).name if Path(part).is_absolute() else part for part in argv)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, help="safetensors file with NAME.weight and NAME.second_moment")
    parser.add_argument("--title", help="what the layers are, for the table")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    options = parser.parse_args()
    layers = layers_of(options.layers) if options.layers else synthetic_layers()
    title = options.title or (options.layers.name if options.layers else "synthetic layers")
    rows = rows_of(layers)
    table = Table(title=f"Relative layer error: {title}", caption=describe())
    for place, name in enumerate(header(layers)):
        table.add_column(name, justify="left" if place in (0, 2) else "right")
    for row in rows:
        table.add_row(*cells(row))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"title": title, "machine": describe(), "rows": rows}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(title, rows, layers), encoding="utf-8")


if __name__ == "__main__":
    main()
