"""A source of the shape of Qwen3.5-35B-A3B: how long it takes to plan it, and the peak memory of quantizing
its first blocks.

    python benchmarks/bench_experts_source.py --folder /some/disk [--blocks 2] [--recipe gptq-2]

The folder is made here: 40 blocks of 256 experts, one tensor for each expert and projection, as on the hub.
The weights of the first blocks are random, all others are holes in the files and take no place on the disk.
The job is stopped after some blocks of the language model; what it has written is deleted. Calibration data
is random tokens, SAMPLES times TOKENS.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from torch import Tensor

from bivlm.calibration.inputs import CalibrationInput
from bivlm.events import Events
from bivlm.families.experts import layout_of
from bivlm.job.request import make_request
from bivlm.job.run import prepare, run
from bivlm.job.unit import UnitReport
from machine import describe

SAMPLES, TOKENS = 16, 256
BYTES = 2  # of a weight in bfloat16


class Stop(Exception):
    """Enough blocks are finished."""


class Watched(Events):
    """Says what every block took, and stops after some."""

    def __init__(self, blocks: int, memory: Memory) -> None:
        self.left, self.memory = blocks, memory

    def unit(self, report: UnitReport, done: int, total: int) -> None:
        if not report.weights:
            return
        tokens = [one.tokens for one in report.weights.values() if one.tokens is not None]
        reached = f"; an expert saw {min(tokens)} to {max(tokens)} tokens" if tokens else ""
        print(
            f"{report.path}: {len(report.weights)} weights, {report.bits_per_weight:.3f} bits,"
            f" {report.seconds:.0f} s, {self.memory}{reached}",
            flush=True,
        )
        self.left -= 1
        if not self.left:
            raise Stop


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


class Memory:
    """The most memory of this process's own (RssAnon), looked at every tenth of a second, and the most with
    the pages of files that the system has mapped for it and can drop (VmHWM).
    """

    def __init__(self) -> None:
        self.own = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.own = max(self.own, status("RssAnon"))
            time.sleep(0.1)

    def __str__(self) -> str:
        return f"peak {self.own / 1e9:.2f} GB of its own, {status('VmHWM') / 1e9:.2f} GB with files"


def hub_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stored tensors: one for each expert and projection."""
    fused = {path for path, module in model.named_modules() if layout_of(module) is not None}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        owner, _, last = name.rpartition(".")
        if owner not in fused:
            shapes[name] = tuple(tensor.shape)
            continue
        count, rows, columns = tensor.shape
        parts = ("gate_proj", "up_proj") if last == "gate_up_proj" else (last,)
        for expert in range(count):
            for part in parts:
                shapes[f"{owner}.{expert}.{part}.weight"] = (rows // len(parts), columns)
    return shapes


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]], filled: bool) -> None:
    """A safetensors file in bfloat16, of holes or of random numbers; the token embedding always has
    numbers.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        size = BYTES * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, shape in shapes.items():
            count = torch.Size(shape).numel()
            if filled or name.endswith("embed_tokens.weight"):
                file.write(drawn(count, len(shape) > 1, generator).view(torch.uint8).numpy().data)
            else:
                file.seek(BYTES * count, 1)
        file.truncate(8 + len(head) + end)


def drawn(count: int, is_matrix: bool, generator: torch.Generator) -> Tensor:
    """Random weights of a matrix; zeros for a vector, whose norms add one."""
    if not is_matrix:
        return torch.zeros(count, dtype=torch.bfloat16)
    return (0.02 * torch.randn(count, generator=generator)).bfloat16()


def make_source(folder: Path, blocks: int) -> None:
    config = transformers.CONFIG_MAPPING["qwen3_5_moe"]()
    config.architectures = ["Qwen3_5MoeForConditionalGeneration"]
    config.dtype = torch.bfloat16
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in hub_shapes(model).items():
        place = name.partition("language_model.layers.")[2].partition(".")[0]
        files.setdefault(place or "rest", {})[name] = shape
    weight_map = {}
    for place, shapes in files.items():
        file = f"model-{place}.safetensors"
        write_sparse(folder / file, shapes, place.isdecimal() and int(place) < blocks)
        weight_map |= dict.fromkeys(shapes, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def inputs(vocabulary: int) -> list[CalibrationInput]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(SAMPLES):
        ids = torch.randint(0, vocabulary, (1, TOKENS), generator=generator)
        tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        samples.append(CalibrationInput(tensors, torch.zeros(TOKENS, dtype=torch.bool)))
    return samples


def main(
    folder: Annotated[Path, typer.Option(help="where the source is made, and kept")],
    blocks: Annotated[int, typer.Option(min=1, help="blocks of the language model to quantize")] = 2,
    recipe: Annotated[str, typer.Option(help="a preset")] = "gptq-2",
) -> None:
    print(describe())
    source, out = folder / "source", folder / "out"
    if not (source / "model.safetensors.index.json").exists():
        make_source(source, blocks)
    memory, started = Memory(), time.perf_counter()
    prepared = prepare(source, make_request(recipe, parts=["language"]))
    packed = [weight for weight in prepared.plan.weights if weight.quantizer is not None]
    print(
        f"planned in {time.perf_counter() - started:.1f} s: {len(packed)} of {len(prepared.plan.weights)}"
        f" linears, {prepared.expected.bytes_before / 1e9:.1f} GB before,"
        f" {prepared.expected.bytes_after / 1e9:.1f} GB after, about"
        f" {prepared.expected.memory_bytes / 1e9:.2f} GB of memory; {memory}",
        flush=True,
    )
    try:
        run(
            prepared,
            out,
            inputs(prepared.source.config.text_config.vocab_size),
            events=Watched(blocks, memory),
        )
    except Stop:
        print(f"stopped; {memory}")
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(typer.run(main))
