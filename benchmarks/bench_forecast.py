"""How long packing takes, next to how long `bivlm quantize` says beforehand that it will take.

    python benchmarks/bench_forecast.py --model MODEL --recipe trellis-2 --recipe gptq-2 --data easy-vqa

One row for each model and recipe: seconds expected and taken, and their ratio, above 1 where the job took
longer. One thread works, and the seconds are those of the processor, which other processes do not change.
Results go to docs/results/forecast.md: with --add to what it holds already, for models that need other data.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer

from bivlm.cli.shared import quiet_libraries
from bivlm.errors import InputError
from bivlm.job.request import make_request
from bivlm.job.run import calibration_samples, expected_seconds, prepare, run
from bivlm.profile import profiled
from machine import describe

RESULTS = Path(__file__).parent.parent / "docs" / "results"
HEAD = """# How long a job takes, and how long it was expected to take

`bivlm quantize` says before it begins how long it will take (`job/forecast.py`). Expected and taken
seconds of the processor, with one thread, and the parts of the expected ones.

    python benchmarks/bench_forecast.py --model MODEL --recipe RECIPE … [--data DATA] [--samples N] [--add]

"""


def measured(model: str, recipe: str, data: str | None, samples: int) -> dict[str, Any]:
    """One job: what was expected, and what it took."""
    prepared = prepare(model, make_request(recipe))
    drawn = calibration_samples(prepared, data, samples)
    with patch.object(time, "perf_counter", time.process_time):  # what the probes look at
        expected = expected_seconds(prepared, drawn)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder, profiled() as seconds:
        run(prepared, Path(folder) / "out", drawn)
    processor = time.process_time() - started
    return {
        "model": Path(model).name,
        "recipe": recipe,
        "samples": len(drawn),
        "expected": expected,
        "taken": processor,
        "wall": dict(seconds),
    }


def page(rows: list[dict[str, Any]], machine: str) -> str:
    lines = [
        "| model | recipe | samples | expected, s | taken, s | ratio | expected parts |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        expected, taken = sum(row["expected"].values()), row["taken"]
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["expected"].items())
        lines.append(
            f"| {row['model']} | {row['recipe']} | {row['samples']} | {expected:.1f} | {taken:.1f} |"
            f" {taken / expected:.2f} | {parts} |"
        )
    return HEAD + "\n".join(lines) + f"\n\n{machine}.\n"


def main(
    model: Annotated[str, typer.Option(help="a folder with full-precision weights")],
    recipe: Annotated[list[str], typer.Option(help="a preset, with settings if need be")],
    data: Annotated[str | None, typer.Option(help="calibration data; left out: the built-in set")] = None,
    samples: Annotated[int, typer.Option(help="calibration questions")] = 32,
    add: Annotated[bool, typer.Option("--add", help="keep the rows that the page has")] = False,
) -> None:
    """Measure, and write the page."""
    quiet_libraries()
    torch.set_num_threads(1)
    file, machine = RESULTS / "forecast.json", describe()
    rows = json.loads(file.read_text())["rows"] if add and file.exists() else []
    try:
        rows += [measured(model, name, data, samples) for name in recipe]
    except InputError as error:
        print(f"bench_forecast: error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    file.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "forecast.md").write_text(page(rows, machine))


if __name__ == "__main__":
    typer.run(main)
