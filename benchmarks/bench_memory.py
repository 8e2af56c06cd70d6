"""Peak resident memory of `bivlm quantize` and of loading, each in a process of its own: the embedded model,
a tiny member of each family, and on request a large shape, without data and with.

    python benchmarks/bench_memory.py                                    a minute
    python benchmarks/bench_memory.py --large --folder /some/big/disk
        a random model of Qwen2.5-VL-3B shape, 7.5 GB in bf16; about two hours on two cores

The large model's weights are drawn once per shape and used for every block: memory and time do not depend on
their values. Its calibration data is random too: images of 256 visual tokens between 64 tokens of text.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from bivlm.eval.inspection import inspect
from bivlm.zoo import embedded_model
from machine import describe

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

# VmHWM, since ru_maxrss of a child starts at what its parent held when it was started
PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
QUANTIZE = (
    """
import sys
from bivlm.job.run import quantize
quantize(sys.argv[1], sys.argv[2], recipe=sys.argv[3])
"""
    + PEAK
)
QUANTIZE_WITH_DATA = (
    """
import sys
from pathlib import Path
import torch
from bivlm.calibration.inputs import CalibrationInput
from bivlm.job.request import make_request
from bivlm.job.run import prepare, run
prepared = prepare(sys.argv[1], make_request(sys.argv[3]))
config, generator = prepared.source.config, torch.Generator().manual_seed(0)
def sample():
    ids = torch.randint(0, 150000, (1, 320), generator=generator)
    ids[0, 32:288] = config.image_token_id
    pixels = torch.randn(1024, 1176, generator=generator).to(prepared.source.dtype)
    grid = torch.tensor([[1, 32, 32]])
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tensors |= {"pixel_values": pixels, "image_grid_thw": grid}
    tensors["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return CalibrationInput(tensors, ids[0] == config.image_token_id)
run(prepared, Path(sys.argv[2]), [sample() for _ in range(8)])
"""
    + PEAK
)
# the language model's answer to a few tokens: every packed weight is prepared and used
LOAD = (
    """
import sys
import torch, transformers
import bivlm.packed.hf
model = transformers.AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto").eval()
with torch.inference_mode():
    assert model(input_ids=torch.arange(100, 108)[None]).logits.isfinite().all()
"""
    + PEAK
)


LARGE_RECIPES = {
    "bivlm-paper": QUANTIZE,
    "trellis-2:feedback=false": QUANTIZE,
    "trellis-2": QUANTIZE_WITH_DATA,
}


def write_large(folder: Path, blocks: int) -> None:
    """A random checkpoint of Qwen2.5-VL-3B shape in bf16, one shard per block; at most `blocks` of its 32 and
    36 blocks.
    """
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": min(36, blocks),
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "max_position_embeddings": 128000,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": min(32, blocks),
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
        },
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generator, drawn = torch.Generator().manual_seed(0), {}
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if shape not in drawn:
            drawn[shape] = (0.02 * torch.randn(shape, generator=generator)).bfloat16()
        words = name.split(".")
        number = next((word for word in words if word.isdigit()), "rest")
        shards.setdefault(f"{words[1]}-{number}", {})[name] = drawn[shape]
    weight_map = {}
    for index, (_, tensors) in enumerate(shards.items(), 1):
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        save_file(
            {name: tensor.clone() for name, tensor in tensors.items()},
            folder / file,
            metadata={"format": "pt"},
        )
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def peak_of(program: str, *arguments: str | Path) -> tuple[int, float]:
    """The peak resident bytes of a program in a fresh process, and its seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout.split()[-1]) * 1024, time.perf_counter() - started


def measure(name: str, source: Path, out: Path, recipe: str, program: str = QUANTIZE) -> dict:
    """Quantize in a fresh process, check the result, and report its peak memory."""
    peak, seconds = peak_of(program, source, out, recipe)
    inspection = inspect(out)
    return {
        "model": name,
        "recipe": recipe,
        "source_bytes": inspection.folder_bytes_before,
        "packed_bytes": inspection.folder_bytes_after,
        "bits_per_weight": inspection.total.bits_per_weight,
        "weights": inspection.total.weights,
        "peak_resident_bytes": peak,
        "seconds": seconds,
    }


def measure_load(row: dict, out: Path) -> dict:
    """Load the result of a row in a fresh process and answer once."""
    peak, seconds = peak_of(LOAD, out)
    return {**row, "recipe": f"load {row['recipe']}", "peak_resident_bytes": peak, "seconds": seconds}


def measure_small(work: Path) -> list[dict]:
    """The embedded model, and a tiny member of each family; without data no processor is needed."""
    from tiny import KINDS, tiny_model

    rows = [measure("embedded model", embedded_model(), work / "embedded", "bivlm-paper")]
    for kind in KINDS:
        tiny_model(kind, torch.bfloat16).save_pretrained(work / kind)
        rows.append(measure(f"tiny {kind}", work / kind, work / f"{kind}-packed", "bivlm-paper"))
    return rows


def measure_large(work: Path, blocks: int, recipes: list[str]) -> list[dict]:
    """The large shape with some recipes, and loading what was made."""
    name, rows = f"random, Qwen2.5-VL-3B shape, {min(blocks, 36)} blocks", []
    for recipe in recipes:
        program = LARGE_RECIPES[recipe]
        out = work / f"large-{recipe}"
        rows.append(measure(name, work / "large", out, recipe, program))
        rows.append(measure_load(rows[-1], out))
        shutil.rmtree(out)
    return rows


def main(
    large: Annotated[bool, typer.Option("--large", help="measure the 3-billion shape as well")] = False,
    small: Annotated[bool, typer.Option(help="measure the small models as well")] = True,
    blocks: Annotated[
        int,
        typer.Option(
            help="blocks of each stack of the large model: memory does not depend on them, time does"
        ),
    ] = 36,
    recipes: Annotated[str, typer.Option(help="which of these, for the large model")] = ",".join(
        LARGE_RECIPES
    ),
    folder: Annotated[
        Path | None, typer.Option(help="where the large model goes (17 GB); left out: the temporary folder")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
) -> None:
    """Measure and print one table."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        rows = measure_small(work) if small else []
        if large:
            (work / "large").mkdir()
            write_large(work / "large", blocks)
            rows += measure_large(work, blocks, recipes.split(","))
    table = Table(title="peak resident memory of quantizing", caption=describe())
    for column in ("model", "recipe", "source", "packed", "true bits", "peak memory", "seconds", "weights/s"):
        table.add_column(column, justify="left" if column in ("model", "recipe") else "right")
    for row in rows:
        table.add_row(
            row["model"],
            row["recipe"],
            f"{row['source_bytes'] / 1e6:,.1f} MB",
            f"{row['packed_bytes'] / 1e6:,.1f} MB",
            f"{row['bits_per_weight']:.3f}",
            f"{row['peak_resident_bytes'] / 1e6:,.0f} MB",
            f"{row['seconds']:.1f}",
            f"{row['weights'] / row['seconds'] / 1e6:.2f} M",
        )
    Console(width=150).print(table)
    if json_path:
        json_path.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
