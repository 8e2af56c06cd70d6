"""What blocks of the rotation cost: a trellis of two bits whose rotation mixes all inputs, or 2, 4, 8 equal
blocks of them.

    python benchmarks/bench_blocks.py [--model FOLDER --text FOLDER] [--wide 4096,8960] [--bits 2] [--seeds 4]
        [--json F] [--markdown F]

The error is the layer error of bench_layers.py. It also depends on the draw of the rotation's signs, so every
number is a geometric mean over several seeds, and what blocks cost is that of the ratios to one block with
the same seed; their standard error is shown next to it. A width that cannot be cut so often is left out.

With --json the command continues: layers that the file has, with as many seeds and bits, are not measured
again.

Linears come from the language part of a model, one in eleven, which meets every kind; their second moments
from windows of 512 tokens of a text (texts.py). Wide ones are made: rows with heavy tails, inputs whose
second moment has eigenvalues that fall as 1 / k, channels of log-normal strength and one in 512 thirty times
as strong.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bivlm.cli.shared import quiet_libraries
from bivlm.errors import InputError
from bivlm.quantizers import Trellis
from layer_errors import measure
from layers import Layer, layers_of_model, text_only
from machine import describe
from preset_tables import command_of, markdown_table, positive
from texts import read_text

BLOCKS = (1, 2, 4, 8)
WINDOWS, CHARACTERS = 24, 2200  # some 512 tokens
ROWS = 256  # of a wide layer; rows do not depend on each other


def real_layers(model: str, text: Path) -> dict[str, Layer]:
    """One in eleven linears of a model, with second moments of a text that calibrates."""
    calibrate, _ = read_text(text)
    windows = [calibrate[CHARACTERS * i : CHARACTERS * (i + 1)] for i in range(WINDOWS)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "windows.jsonl"
        data.write_text("".join(json.dumps({"text": window}) + "\n" for window in windows), encoding="utf-8")
        return layers_of_model(model, str(data), WINDOWS, 11)


def wide_layer(columns: int) -> Layer:
    """A made layer of ROWS rows: what the docstring of this file says."""
    random = torch.Generator().manual_seed(columns)
    weight = torch.randn(ROWS, columns, generator=random)
    weight /= torch.rand(ROWS, columns, generator=random).clamp(min=0.01) ** 0.15
    tokens = torch.randn(2 * columns, columns, generator=random)
    tokens *= torch.arange(1, columns + 1).float() ** -0.5
    mixed = torch.randn(columns, columns, generator=random) / columns**0.5
    strength = torch.empty(columns).log_normal_(0, 0.6, generator=random)
    strength[:: max(1, columns // max(1, columns // 512))] *= 30
    x = (tokens @ mixed).mul_(strength)
    return Layer(0.02 * weight, text_only(x.T @ x / len(x)))


def layer_rows(name: str, layer: Layer, bits: float, seeds: int) -> dict[str, Any]:
    """The errors of one layer by blocks, one for each seed."""
    columns, errors = layer.weight.shape[1], {}
    for blocks in BLOCKS:
        if columns % (16 * blocks) == 0:
            methods = (Trellis(bits=bits, blocks=blocks, seed=seed) for seed in range(seeds))
            errors[blocks] = [measure(method, layer)["error"] for method in methods]
    print(name, columns, {b: f"{statistics.geometric_mean(e):.5f}" for b, e in errors.items()}, flush=True)
    return {"layer": name, "shape": list(layer.weight.shape), "errors": errors}


def known_rows(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What an earlier run with as many bits and seeds has measured, by layer."""
    if options.json is None or not options.json.exists():
        return {}
    kept = json.loads(options.json.read_text(encoding="utf-8"))
    if (kept["bits"], kept["seeds"]) != (options.bits, options.seeds):
        return {}
    rows = [row | {"errors": {int(b): e for b, e in row["errors"].items()}} for row in kept["rows"]]
    return {row["layer"]: row for row in rows}


def cost(rows: list[dict[str, Any]], blocks: int) -> str:
    """What so many blocks cost, in percent, with its standard error over layers and seeds."""
    ratios = [
        math.log(several / one)
        for row in rows
        for several, one in zip(row["errors"].get(blocks, []), row["errors"][1], strict=False)
    ]
    if not ratios:
        return "-"
    spread = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
    return f"{100 * math.expm1(statistics.mean(ratios)):+.2f} ± {100 * spread:.2f}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each width."""
    cells = []
    for columns in sorted({row["shape"][1] for row in rows}):
        of_width = [row for row in rows if row["shape"][1] == columns]
        error = statistics.geometric_mean(e for row in of_width for e in row["errors"][1])
        kind = "made" if of_width[0]["layer"].startswith("made") else "real"
        costs = [cost(of_width, blocks) for blocks in BLOCKS[1:]]
        cells.append([f"{columns}, {kind}", str(len(of_width)), f"{error:.4f}", *costs])
    columns_ = ["width", " layers", " error, 1 block", *(f" {blocks} blocks, %" for blocks in BLOCKS[1:])]
    return markdown_table(columns_, cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder, or OWNER/NAME on the Hugging Face hub; needs --text")
    parser.add_argument("--text", type=Path, help="folder of text or HTML files")
    parser.add_argument("--wide", default="4096,8960", help="widths of made layers, or none")
    parser.add_argument("--bits", type=float, default=2.0)
    parser.add_argument("--seeds", type=positive, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    quiet_libraries()
    try:
        if bool(options.model) != bool(options.text):
            raise InputError("--model needs --text, the text to calibrate with")
        layers = real_layers(options.model, options.text) if options.model else {}
    except InputError as error:
        print(f"bench_blocks: error: {error}", file=sys.stderr)
        sys.exit(2)
    known, rows = known_rows(options), []
    widths = [int(width) for width in options.wide.split(",") if width != "none"]
    for name in [*layers, *(f"made, {width}" for width in widths)]:
        if name not in known:
            layer = layers[name] if name in layers else wide_layer(int(name.split()[-1]))
            known[name] = layer_rows(name, layer, options.bits, options.seeds)
        rows.append(known[name])
        if options.json:
            kept = {"machine": describe(), "bits": options.bits, "seeds": options.seeds, "rows": rows}
            options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(table(rows))
    print(text)
    if options.markdown:
        options.markdown.write_text(page(text, options), encoding="utf-8")


def page(text: str, options: argparse.Namespace) -> str:
    model = Path(options.model).name if options.model else "no model"
    lines = [
        "# What blocks of the rotation cost",
        "",
        (
            f"Layer error of a trellis of {options.bits:g} bits whose rotation has several diagonal blocks,"
            " relative to that of one block, in percent: geometric mean over layers and"
            f" {options.seeds} draws of the signs, with its standard error. Real layers are one in eleven of"
            f" the linears of {model}; made ones are described in the command's help."
        ),
        "",
        text,
        "",
        f"Machine: {describe()}. Command:",
        "",
        f"    {command_of('bench_blocks.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
