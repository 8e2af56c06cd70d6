"""Where the time of `bivlm quantize` goes for large models, and its memory: processor seconds by part,
measured on one block of each stack and added up to the whole model.

    python benchmarks/bench_job.py                             ten minutes
    python benchmarks/bench_job.py --before PYTHON             PYTHON: of an environment with another version
    python benchmarks/bench_job.py --add                       next to the rows that the page has

Random weights of two shapes: Qwen2-VL-2B's width, whose language model has 1.5 billion parameters, and
Qwen2-VL-7B's. Both have 32 vision and 28 language blocks, of which one each is packed, with the projector.
Samples have 700 tokens, of which an image gives 576. Parts that grow with the samples are measured on a few
and counted for 32; gradients for as many of 32 as the job would measure them on.

A version that says nothing of parts is measured on the small shape, on these samples and on twice as many:
what is added grows with the samples.

Seconds are of the processor, of one thread: other processes may have the core for the rest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from safetensors.torch import save_file

from machine import describe

RESULTS = Path(__file__).parent.parent / "docs" / "results"
SAMPLES = 32
BY_SAMPLE = ("forward passes", "second moments")
STACKS = ("vision", "projector", "language", "rest")
NOW = "now"  # what the row of this version is called
WHOLE = "the whole job"  # the part of a version that says nothing of parts
BLOCKS = {"vision": 32, "language": 28}  # of the whole model
PROGRAM = """
import json, sys, time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
import torch
from bivlm.calibration.inputs import CalibrationInput
from bivlm.job.request import make_request
from bivlm.job.run import prepare, run
from bivlm.checkpoint.source import SourceModel
try:
    from bivlm import profile
except ImportError:
    profile = None
try:
    from bivlm.job.weighing import differentiated
except ImportError:
    differentiated = None

model, out, recipe, samples, many = sys.argv[1:]
torch.set_num_threads(1)
stack = "rest"

def turn(clock):
    now, name = time.process_time(), stack + ": " + clock.under_way[-1]
    clock.seconds[name] = clock.seconds.get(name, 0.0) + now - clock.since
    clock.since = now

@contextmanager
def present(source, path, real=SourceModel.present):
    global stack
    turn(clock)
    stack = "vision" if ".blocks." in path else "language" if ".layers." in path else "projector"
    try:
        with real(source, path) as module:
            yield module
    finally:
        turn(clock)
        stack = "rest"

SourceModel.present = present
if profile:
    profile._Clock.turn, profile.perf_counter = turn, time.process_time
prepared = prepare(model, make_request(recipe))
config, generator = prepared.source.config, torch.Generator().manual_seed(0)

def sample():
    ids = torch.randint(0, 150000, (1, 700), generator=generator)
    ids[0, 62:638] = config.image_token_id
    visual = ids == config.image_token_id
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": visual.long()}
    pixels = torch.randn(2304, 1176, generator=generator).to(prepared.source.dtype)
    tensors |= {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 48, 48]])}
    return CalibrationInput(tensors, visual[0], torch.arange(700) >= 684)

inputs = [sample() for _ in range(int(samples))]
if profile:
    with profile.profiled() as seconds:
        clock = profile._clock.get()
        run(prepared, Path(out), inputs)
else:
    seconds = {}
    clock = SimpleNamespace(seconds=seconds, under_way=["the whole job"], since=time.process_time())
    run(prepared, Path(out), inputs)
    turn(clock)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
few, all_of_them = inputs[:1] * int(samples), inputs[:1] * int(many)
grown = int(many) / int(samples)
if differentiated:
    grown = len(differentiated(prepared.plan, all_of_them)) / len(differentiated(prepared.plan, few))
print(json.dumps({"seconds": seconds, "peak": int(peak) * 1024, "gradients": grown}))
"""


@dataclass(frozen=True)
class Shape:
    """The widths of a language model, how many of its heads have queries, and keys, and whether its head is
    the embedding.
    """

    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    tied: bool


SMALL, LARGE = Shape(1536, 8960, 12, 2, True), Shape(3584, 18944, 28, 4, False)


def write_model(folder: Path, shape: Shape) -> None:
    """A random checkpoint in bf16 with one block of each stack; tensors of one shape are the same."""
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": 1,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": shape.hidden,
        },
        tie_word_embeddings=shape.tied,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generator, drawn = torch.Generator().manual_seed(0), {}
    for parameter in model.parameters():
        if parameter.shape not in drawn:
            drawn[parameter.shape] = (0.02 * torch.randn(parameter.shape, generator=generator)).bfloat16()
    tensors = {name: drawn[parameter.shape].clone() for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def job(python: str, model: Path, recipe: str, samples: int) -> dict[str, Any]:
    """Of one job, in a process of its own: seconds by part, peak memory in bytes, and how many times the
    gradients grow up to SAMPLES samples.
    """
    with tempfile.TemporaryDirectory(dir=model.parent) as out:
        done = subprocess.run(
            [python, "-c", PROGRAM, str(model), f"{out}/out", recipe, str(samples), str(SAMPLES)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def measured(python: str, model: Path, recipe: str, samples: int) -> dict[str, Any]:
    """Seconds by stack and part, for SAMPLES samples, and the peak of memory."""
    found = job(python, model, recipe, samples)
    alone = all(name.endswith(f": {WHOLE}") for name in found["seconds"])
    twice = job(python, model, recipe, 2 * samples)["seconds"] if alone else {}
    seconds: dict[str, dict[str, float]] = {stack: {} for stack in STACKS}
    for name, value in found["seconds"].items():
        stack, part = name.split(": ")
        by_sample = value / samples if part in BY_SAMPLE else 0.0
        if part == WHOLE:
            by_sample = (twice[name] - value) / samples
        grown = found["gradients"] if part == "gradients" else 1.0
        seconds[stack][part] = value * grown + by_sample * (SAMPLES - samples)
    return {"seconds": seconds, "peak": found["peak"]}


def whole(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Seconds by part of the whole model."""
    total: dict[str, float] = {}
    for stack, parts in seconds.items():
        for name, value in parts.items():
            total[name] = total.get(name, 0.0) + BLOCKS.get(stack, 1) * value
    return total


HEAD = """# Where the time of a job goes

Packing large models with `{recipe}`, calibrated on 32 samples of 700 tokens (an image of 672 x 672 pixels in
576 of them, answers of 16 tokens), all parts: processor seconds of one thread by part, for one block of each
stack, and added up to 32 vision and 28 language blocks. Random weights, in bfloat16. Where fewer samples
were measured, what grows with them is counted for 32. `python benchmarks/bench_job.py` makes this page and
says more.
"""
SIZES = {"small": "1.5 B", "large": "7 B"}


def page(rows: list[dict[str, Any]], machine: str) -> str:
    lines = [HEAD.format(**rows[0])]
    for row in rows:
        columns: dict[str, Mapping[str, float]] = {"a vision block": row["small"]["seconds"]["vision"]}
        for shape, size in SIZES.items():
            seconds = row[shape]["seconds"] if shape in row else {}
            columns[f"projector of {size}"] = seconds.get("projector", {})
            columns[f"a language block of {size}"] = seconds.get("language", {})
            columns[f"all of {size}"] = whole(seconds)
        lines += [
            f"## {row['name'].capitalize()}\n",
            "| part, s | " + " | ".join(columns) + " |",
            "|---|" + "--:|" * len(columns),
        ]
        total = columns[f"all of {SIZES['small']}"]
        for name in sorted(total, key=lambda one: -total[one]):
            lines.append(
                f"| {name} | "
                + " | ".join(_said(one.get(name, 0.0), one, 1) for one in columns.values())
                + " |"
            )
        sums = " | ".join(_said(sum(one.values()), one, 0) for one in columns.values())
        peaks = [f"{row[one]['peak'] / 1e9:.2f} GB ({size})" for one, size in SIZES.items() if one in row]
        measured_on = f"Measured on {row['samples']} samples; peak resident memory: {', '.join(peaks)}."
        lines += [f"| **sum** | {sums} |", f"\n{measured_on}\n"]
    if len(rows) > 1:
        lines.append(_compared(rows[0], rows[-1]))
    return "\n".join(lines) + f"\n{machine}.\n"


def _said(seconds: float, column: Mapping[str, float], digits: int) -> str:
    return f"{seconds:,.{digits}f}" if column else "–"


def _compared(first: dict[str, Any], last: dict[str, Any]) -> str:
    """How the whole models' seconds of two rows compare."""
    text = []
    for shape, size in SIZES.items():
        if shape in first and shape in last:
            long, short = (sum(whole(row[shape]["seconds"]).values()) / 3600 for row in (first, last))
            hours = f"{first['name']} {long:.2f}, {last['name']} {short:.2f}"
            text.append(f"{size}, hours of one core: {hours}, {short / long:.2f} times as long.")
        elif shape in last:
            text.append(
                f"{size}, hours of one core: {sum(whole(last[shape]['seconds']).values()) / 3600:.2f}."
            )
    return "\n".join(text) + "\n"


def main(
    name: Annotated[str, typer.Option(help="what the row of --before is called")] = "before",
    before: Annotated[
        str | None, typer.Option(help="the Python of an environment with another bivlm, measured first")
    ] = None,
    samples: Annotated[int, typer.Option(help="samples that are measured on")] = 4,
    recipe: Annotated[str, typer.Option(help="a preset, with settings if need be")] = "trellis-2",
    folder: Annotated[Path | None, typer.Option(help="where the models go (5 GB)")] = None,
    add: Annotated[bool, typer.Option("--add", help="keep the page's rows of other versions")] = False,
) -> None:
    """Measure, print, and write the page."""
    file, machine = RESULTS / "job.json", describe()
    kept = json.loads(file.read_text())["rows"] if add and file.exists() else []
    rows = [row for row in kept if row["name"] != NOW]
    about = {"recipe": recipe, "samples": samples}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        places = {"small": Path(work, "small"), "large": Path(work, "large")}
        for shape, place in places.items():
            place.mkdir()
            write_model(place, SMALL if shape == "small" else LARGE)
        if before is not None:
            small = measured(before, places["small"], recipe, samples)
            rows.append({"name": name, **about, "small": small})
        found = {shape: measured(sys.executable, place, recipe, samples) for shape, place in places.items()}
        rows.append({"name": NOW, **about, **found})
    text = page(rows, machine)
    print(text)
    file.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "job.md").write_text(text)


if __name__ == "__main__":
    typer.run(main)
