"""What a method costs and what it loses on single linears: true bits per weight against relative layer error.
The loop in which methods are compared.

    python benchmarks/bench_layers.py [--layers layers.safetensors] [--presets NAME,NAME]
        [--json F] [--markdown F] [--plot F.png]
    python benchmarks/bench_layers.py --model FOLDER --data easy-vqa [--samples 8] [--every 11]
    python benchmarks/bench_layers.py --grid bivlm            the settings of Bi-VLM instead of the presets

The error is tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ), with H the second moment of what the linear receives: the
share of its output's energy that is lost. H is what is compensated with and what is measured with. Bits are
those of the packed tensors, everything counted; Q is what these tensors decode to, and a run ends when that
is not what was packed. A preset serves every layer with its rule for the part "language".

Layers come from a file with NAME.weight (out, in) and NAME.second_moment (in, in) for every linear; or they
are every k-th linear of the language part of a model, with the second moments that some questions give in
full precision; without either, seeded synthetic ones with correlated inputs are made. The error is measured
with all tokens counting the same, whatever a method calibrates with. A mistake in what is given ends with one
line and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bivlm.cli.shared import PRESETS_HELP, quiet_libraries
from bivlm.errors import InputError
from bivlm.job.recipe import KEEP, Recipe, build_quantizer
from bivlm.quantizers import BiVLM, Quantizer
from bivlm.studies.picture import require_matplotlib
from layer_errors import KEPT, error_cell, measure, overall_error, weighted
from layers import Layer, layers_of_file, layers_of_model, synthetic_layers
from machine import describe
from preset_tables import (
    Point,
    by_bits,
    command_of,
    markdown_table,
    number,
    plot,
    positive,
    print_table,
    recipes_of,
)

ON_SCREEN = 8  # layers with a column of their own in the terminal
BANDS = (1, 2, 3, 5)
KINDS: dict[str, dict[str, Any]] = {
    "letter": {"salient_levels": "paper"},
    "Lloyd tail": {},
    "per row": {"granularity": "row"},
    "per group of 128": {"granularity": "group", "group_size": 128},
}
GRID = {
    (kind, bands, compensated): BiVLM(bands=bands, compensate=compensated, **fields)
    for kind, fields in KINDS.items()
    for compensated in (False, True)
    for bands in BANDS
    if not (kind == "letter" and compensated)  # the paper uses no data
}
PRESET_NOTES = (
    "Paper bits are the count of the method's own paper, where that differs from the stored bits.",
    "The mean is the geometric one over the layers; the time is that of quantizing, per million weights.",
)
GRID_NOTES = ("All settings but the named ones are the defaults: a salient share of at most 1 %.",)


def quantizer_for(recipe: Recipe, linear: str) -> Quantizer | None:
    """What serves a linear of the language part; None where the recipe keeps it."""
    rule = recipe.rule_for("language", linear)
    return None if rule is None or rule.quantizer == KEEP else build_quantizer(rule)


def preset_row(name: str, recipe: Recipe, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """One preset on every layer. What needs all layers (bits, geometric mean, time) is None when one of them
    failed.
    """
    quantizers = {layer: quantizer_for(recipe, layer) for layer in layers}
    found = {
        layer: {"failed": KEPT} if method is None else measure(method, layers[layer])
        for layer, method in quantizers.items()
    }
    return {
        "preset": name,
        "quantizer": " + ".join(
            dict.fromkeys(method.name for method in quantizers.values() if method is not None)
        ),
        "bits": weighted(found, layers, "bits"),
        "paper_bits": weighted(found, layers, "paper_bits"),
        "error": overall_error(found),
        "seconds_per_million": weighted(found, layers, "seconds_per_million"),
        "layers": found,
    }


def grid_rows(layers: Mapping[str, Layer]) -> list[dict[str, Any]]:
    """Bi-VLM's settings, in their order, on every layer."""
    rows = []
    for (kind, bands, compensated), method in GRID.items():
        found = {name: measure(method, layer) for name, layer in layers.items()}
        rows.append(
            {
                "kind": kind,
                "bands": bands,
                "compensated": compensated,
                "bits": weighted(found, layers, "bits"),
                "layers": found,
            }
        )
    return rows


def preset_columns(layers: Iterable[str]) -> list[str]:
    """Column names; a leading space aligns to the right."""
    return [
        "preset",
        "quantizer",
        " true bits",
        " paper bits",
        *(f" {name}" for name in layers),
        " geometric mean",
        " s per million",
    ]


def preset_cells(row: Mapping[str, Any]) -> list[str]:
    errors = [error_cell(layer) for layer in row["layers"].values()]
    bits = [number(row[what], 3) for what in ("bits", "paper_bits")]
    return [
        row["preset"],
        row["quantizer"],
        *bits,
        *errors,
        number(row["error"], 4),
        number(row["seconds_per_million"], 2),
    ]


def grid_columns(layers: Iterable[str]) -> list[str]:
    return ["setting", " bands", "error feedback", " true bits", *(f" {name}" for name in layers)]


def grid_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["kind"],
        str(row["bands"]),
        "yes" if row["compensated"] else "no",
        number(row["bits"], 3),
        *map(error_cell, row["layers"].values()),
    ]


def failures(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for every preset and reason, with the layers that it holds for."""
    lines = []
    for row in rows:
        reasons: dict[str, list[str]] = {}
        for name, layer in row["layers"].items():
            if "failed" in layer:
                reasons.setdefault(layer["failed"], []).append(name)
        lines += [
            f"{row.get('preset') or row['kind']} on {', '.join(names)}: {reason}"
            for reason, names in reasons.items()
        ]
    return lines


def markdown(
    heading: str,
    title: str,
    layers: Mapping[str, Layer],
    notes: Sequence[str],
    table: Sequence[str],
    after: Sequence[str],
) -> str:
    shapes = "; ".join(
        f"`{name}` {layer.weight.shape[0]} x {layer.weight.shape[1]}" for name, layer in layers.items()
    )
    lines = [
        f"# {heading}",
        "",
        (
            f"Relative layer error tr((W - Q) H (W - Q)ᵀ) / tr(W H Wᵀ), lower is better, on {title} (out x"
            f" in): {shapes}."
        ),
        (
            "True bits are the stored bits of the packed tensors over the weights of all layers, everything"
            " counted."
        ),
        "Error feedback uses the same second moments that the error is measured with.",
        *notes,
        "",
        *table,
        "",
        *(f"- {reason}" for reason in after),
        *([""] if after else []),
        f"Machine: {describe()}. Command:",
        "",
        f"    {command_of('bench_layers.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def report(options: argparse.Namespace, title: str, layers: Mapping[str, Layer]) -> None:
    """Measure, print, and write what was asked for."""
    if options.grid:
        heading, notes, columns, rows = (
            "Layer errors of Bi-VLM",
            GRID_NOTES,
            grid_columns(layers),
            grid_rows(layers),
        )
        cells = [grid_cells(row) for row in rows]
    else:
        recipes = recipes_of(options.presets)
        heading, notes, columns = "Layer errors of the presets", PRESET_NOTES, preset_columns(layers)
        rows = by_bits(preset_row(name, recipe, layers) for name, recipe in recipes.items())
        cells = [preset_cells(row) for row in rows]
    shown = [
        place
        for place, column in enumerate(columns)
        if len(layers) <= ON_SCREEN or column.strip() not in layers
    ]
    print_table(
        f"Relative layer error: {title}",
        [columns[place] for place in shown],
        [[row[place] for place in shown] for row in cells],
        describe(),
    )
    if len(shown) < len(columns):
        print(f"The errors of the {len(layers)} single layers are in what --json and --markdown write.")
    failed = failures(rows)
    print("\n".join(failed), end="\n" if failed else "")
    if options.json:
        options.json.write_text(
            json.dumps({"title": title, "machine": describe(), "rows": rows}, indent=1) + "\n",
            encoding="utf-8",
        )
    if options.markdown:
        options.markdown.write_text(
            markdown(heading, title, layers, notes, markdown_table(columns, cells), failed), encoding="utf-8"
        )
    if options.plot:
        plot(
            options.plot,
            layer_points(rows),
            f"Relative layer error: {title}",
            "relative layer error, geometric mean over the layers",
        )


def layer_points(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The rows that are complete: presets by method, settings of the grid by kind."""
    points = []
    for row in rows:
        if error := overall_error(row["layers"]):  # none for a failure; 0 has no place on a log scale
            feedback = ", error feedback" if row.get("compensated") else ""
            method, label = (
                (row["quantizer"], row["preset"])
                if "preset" in row
                else (row["kind"] + feedback, str(row["bands"]))
            )
            points.append(Point(method, label, row["bits"], error))
    return points


def chosen_layers(options: argparse.Namespace) -> tuple[str, dict[str, Layer]]:
    """The layers that the options ask for, and what to call them. InputError when they contradict one
    another.
    """
    if options.model:
        if options.layers or not options.data:
            raise InputError("--model needs --data, the questions to calibrate with, and no --layers")
        model, data = Path(options.model).name, Path(options.data).name
        title = (
            f"one in {options.every} linears of the language part of {model}, second moments from"
            f" {options.samples} questions of {data}"
        )
        return title, layers_of_model(options.model, options.data, options.samples, options.every)
    if options.layers:
        return options.layers.name, layers_of_file(options.layers)
    return "synthetic layers", synthetic_layers()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--layers", type=Path, help="safetensors file with NAME.weight and NAME.second_moment"
    )
    parser.add_argument(
        "--model",
        help="take the linears of this model instead: a folder, or OWNER/NAME on the Hugging Face hub",
    )
    parser.add_argument(
        "--data", help="questions to calibrate --model with: a JSONL file, a folder, or easy-vqa"
    )
    parser.add_argument("--samples", type=positive, default=8, help="how many questions")
    parser.add_argument(
        "--every",
        type=positive,
        default=11,
        help="every k-th linear of --model: 7 of a block, say, and 11 meet every kind",
    )
    parser.add_argument(
        "--presets", action="append", metavar="A,B,…", help=f"{PRESETS_HELP}; left out: every preset"
    )
    parser.add_argument(
        "--grid", choices=["bivlm"], help="the settings of this method instead of the presets"
    )
    parser.add_argument("--title", help="what the layers are, for the table")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    parser.add_argument("--plot", type=Path, help="draw error against true bits here (png, svg, pdf)")
    options = parser.parse_args()
    quiet_libraries()
    try:
        if options.plot:
            require_matplotlib()
        title, layers = chosen_layers(options)
        report(options, options.title or title, layers)
    except InputError as error:
        print(f"bench_layers: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
