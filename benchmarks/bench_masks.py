"""What packing does to a model that draws masks: the small one that `make masks-model` trains on rendered
shapes, packed with several draws of calibration scenes and judged on scenes that it never saw.

    python benchmarks/bench_masks.py [--model build/masks] [--presets A,B] [--draws 3] [--samples 32]
        [--scenes 200] [--json F] [--markdown F]

Protocol. Draw d calibrates on `--samples` scenes whose seeds begin at one of its own; `--scenes` scenes with
two shapes each are judged, the same for all. A box around the visible part of each shape asks for its mask.
The model is packed as `bivlm quantize` packs it, to a folder, which is loaded and judged:

IoU with the truth      mean over scenes of the mean IoU of their masks with the true ones
IoU with full precision the same with the masks of the full-precision model
score drift             the mean absolute difference of the predicted IoU

Every preset has a row for the encoder alone (`vision`) and one for the encoder and the blocks of the mask
decoder (`vision, projector`). True bits are of what is packed; the size is of the whole folder. A preset that
needs no data has one draw.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.source import SourceModel
from bivlm.cli.shared import PRESETS_HELP
from bivlm.errors import InputError
from bivlm.eval.inspection import inspect
from bivlm.eval.vision import Seen, compared, see_all
from bivlm.families import family_of
from bivlm.job.recipe import Recipe
from bivlm.job.request import Request
from bivlm.job.run import prepare, run
from bivlm.loading import load
from bivlm.types import PartName, Sample
from bivlm.zoo.train_masks import HELD_OUT, mask_samples
from kept_rows import Row, is_current, kept_rows, plain_recipe, save_rows, weights_digest
from machine import describe
from preset_tables import command_of, markdown_table, number, positive, print_table, recipes_of
from script import run_script

PRESETS = "sign-1,gptq-1,trellis-1,trellis-1.5,gptq-2,trellis-2,rtn-3,gptq-3"
FULL_PRECISION = "full precision"
PARTS: tuple[tuple[PartName, ...], ...] = (("vision",), ("vision", "projector"))
APART = 10_000  # seeds between two draws
COLUMNS = (
    "preset",
    "packed",
    " true bits",
    " KB",
    " draws",
    " IoU with the truth",
    " lowest … highest",
    " IoU with full precision",
    " score drift",
)


@dataclass(frozen=True)
class Bench:
    """A model's folder, the scenes on which it is judged, and a folder for what is packed."""

    folder: Path
    scenes: Sequence[Sample]
    samples: int
    work: Path

    @cached_property
    def reference(self) -> list[Seen]:
        return see_all(*load(self.folder), self.scenes)

    def judge(self, seen: Sequence[Seen]) -> Row:
        family = family_of(SourceModel(self.folder).config)
        found = compared(family, self.scenes, seen, self.reference)
        if found.non_finite:
            return {"failed": "the packed model's output is not finite"}
        assert found.true_iou is not None
        assert found.iou is not None
        return {
            "true_iou": found.true_iou.mean,
            "interval": list(found.true_iou.interval),
            "iou": found.iou.mean,
            "drift": found.score_drift,
        }

    def full_precision(self) -> Row:
        size = SourceModel(self.folder).file_bytes
        return {"preset": FULL_PRECISION, "bytes": size, "machine": describe(), **self.judge(self.reference)}

    def measure(self, name: str, recipe: Recipe, parts: tuple[PartName, ...], draw: int) -> Row:
        """Pack with one draw, load the folder, and judge it."""
        row: Row = {"preset": name, "parts": list(parts), "draw": draw, **plain_recipe(recipe)}
        row["machine"] = describe()
        try:
            prepared, out = prepare(self.folder, Request(recipe, parts)), self.work / "packed"
            drawn = mask_samples(self.samples, HELD_OUT + (1 + draw) * APART) if recipe.needs_data else ()
            run(prepared, out, drawn, overwrite=True)
            inspection = inspect(out)
            row |= {"bits": inspection.total.bits_per_weight, "bytes": inspection.folder_bytes_after}
            return row | self.judge(see_all(*load(out, expand=True), self.scenes))
        except InputError as error:
            return row | {"failed": str(error)}


def key_of(row: Row) -> tuple[str, tuple[str, ...], int]:
    return row["preset"], tuple(row.get("parts", ())), row.get("draw", -1)


def measured(bench: Bench, options: argparse.Namespace, protocol: dict[str, Any]) -> list[Row]:
    """The full-precision row and all others; finished ones are kept in the file."""
    rows = kept_rows(options.json, protocol, key_of)
    full = (FULL_PRECISION, (), -1)
    if full not in rows:
        rows = {full: bench.full_precision(), **rows}
    chosen = [full]
    for name, recipe in recipes_of([options.presets]).items():
        for parts in PARTS:
            for draw in range(options.draws if recipe.needs_data else 1):
                key = (name, parts, draw)
                chosen.append(key)
                if not is_current(rows.get(key), recipe):
                    rows[key] = bench.measure(name, recipe, parts, draw)
                    save_rows(options.json, protocol, rows)
                    print(key, rows[key].get("true_iou", rows[key].get("failed")), file=sys.stderr)
    save_rows(options.json, protocol, rows)
    return [rows[key] for key in chosen]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """A line for full precision, and for each preset and choice of parts the means over its draws."""
    full = rows[0]
    size = number(full["bytes"] / 1000, 0)
    cells = [[FULL_PRECISION, "", "", size, "", number(full["true_iou"], 4), "", "", ""]]
    for key in dict.fromkeys(key_of(row)[:2] for row in rows[1:]):
        mine = [row for row in rows[1:] if key_of(row)[:2] == key and "failed" not in row]
        if not mine:
            continue
        mean = {
            name: statistics.fmean(row[name] for row in mine)
            for name in ("bits", "bytes", "true_iou", "iou", "drift")
        }
        low, high = (number(end(row["true_iou"] for row in mine), 4) for end in (min, max))
        cells.append(
            [
                *(key[0], ", ".join(key[1]), number(mean["bits"], 3), number(mean["bytes"] / 1000, 0)),
                *(str(len(mine)), number(mean["true_iou"], 4), f"{low} … {high}" if len(mine) > 1 else ""),
                *(number(mean["iou"], 4), number(mean["drift"], 4)),
            ]
        )
    return cells


def markdown(rows: Sequence[Row], protocol: dict[str, Any]) -> str:
    low, high = rows[0]["interval"]
    failed = [f"- {'/'.join(map(str, key_of(row)))}: {row['failed']}" for row in rows if "failed" in row]
    lines = [
        "# Masks of a packed SAM",
        "",
        (
            f"The small SAM of `make masks-model`, on {protocol['scenes']} rendered scenes that it never saw,"
            " with"
        ),
        (
            "two shapes each, asked for by boxes. Each draw calibrates on"
            f" {protocol['samples']} other scenes. IoU: mean over"
        ),
        f"scenes; the 95 % interval of full precision is {low:.4f} to {high:.4f}. Score drift: mean absolute",
        (
            "difference of the predicted IoU from full precision's. True bits: of what is packed. KB: of the"
            " folder."
        ),
        "",
        *markdown_table(COLUMNS, table(rows)),
        "",
        *([*failed, ""] if failed else []),
        f"Machine: {rows[-1]['machine']}. Command:",
        "",
        f"    {command_of('bench_masks.py', sys.argv[1:])}",
        "",
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="build/masks", help="what `make masks-model` trained")
    parser.add_argument("--presets", default=PRESETS, metavar="A,B,…", help=PRESETS_HELP)
    parser.add_argument("--draws", type=positive, default=3, help="draws of calibration scenes")
    parser.add_argument("--samples", type=positive, default=32, help="calibration scenes in a draw")
    parser.add_argument("--scenes", type=positive, default=200, help="scenes that are judged")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, help="keep the rows here; the same command continues")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Measure, print, and write what was asked for."""
    folder = resolve_model(options.model)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(folder, mask_samples(options.scenes), options.samples, Path(work))
        protocol = {
            "weights": weights_digest(SourceModel(folder)),
            "scenes": options.scenes,
            "samples": options.samples,
        }
        rows = measured(bench, options, protocol)
    print_table("masks", COLUMNS, table(rows), rows[-1]["machine"])
    if options.markdown:
        options.markdown.write_text(markdown(rows, protocol), encoding="utf-8")


def main() -> None:
    run_script("bench_masks", parse(), report)


if __name__ == "__main__":
    main()
