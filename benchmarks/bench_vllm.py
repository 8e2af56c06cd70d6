"""Packed folders in vLLM next to transformers: answers, log-probabilities, start, tokens per second.

    python benchmarks/bench_vllm.py --python PYTHON_OF_VLLM [--threads 1] [--markdown docs/results/vllm.md]

The embedded model, in full precision and packed, answers three questions about each of three pictures in
vLLM's CPU build (without torch.compile), in an environment of its own (docs/vllm.md). The same answer is
given to transformers' model of the same folder; the difference is the largest one of the log-probabilities of
the five most probable tokens at each step. vLLM wants the tower of the full-precision model under an older
name, so it is asked a copy with that name; the packed folders are asked as `bivlm quantize` wrote them.
Tokens per second are those of 1 and of 8 questions at once, 32 tokens each; the rows of a dtype follow each
other, and the ratio is to full precision.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import bivlm
from bench_export import QUESTIONS, pictures
from bivlm.types import Sample
from bivlm.vllm_plugin.names import WITHOUT_LEVEL
from bivlm.zoo import embedded_model
from machine import describe
from preset_tables import command_of, markdown_table, print_table
from script import run_script
from stock_vllm import Asked, Told, ask_vllm, compared, prompts_of

PACKED = {  # name: preset, bits of embedding and head, ranks
    "trellis-2, all parts": ("trellis-2", 4, 1),
    "gptq-2, all parts": ("gptq-2", 4, 1),
    "gptq-lloyd-2": ("gptq-lloyd-2", None, 1),
    "dbf-2": ("dbf-2", None, 1),
    "billm-2.5": ("billm-2.5", None, 1),
    "trellis-2, all parts, two ranks": ("trellis-2", 4, 2),
    "trellis-2:blocks=2, all parts, two ranks": ("trellis-2:blocks=2", 4, 2),
}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
TOGETHER = 8
Model = tuple[str, Path, Path, int]  # name, folder for transformers, folder for vLLM, ranks
COLUMNS = (
    "model",
    "dtype",
    " same answers",
    " difference",
    " s until ready",
    " tokens / s, 1",
    f" tokens / s, {TOGETHER}",
    " ratio",
)


def with_level(folder: Path, out: Path) -> Path:
    """A copy of a full-precision folder with the tower's name that vLLM wants."""
    shutil.copytree(folder, out)
    for file in out.glob("*.safetensors"):
        tensors = {
            WITHOUT_LEVEL.sub("vision_tower.vision_model.", key): tensor
            for key, tensor in load_file(file).items()
        }
        save_file(tensors, file, metadata={"format": "pt"})
    return out


def folders(work: Path) -> Iterator[Model]:
    """Everything that is asked."""
    yield "full precision", embedded_model(), with_level(embedded_model(), work / "full"), 1
    made: dict[str, Path] = {}
    for name, (preset, tables, ranks) in PACKED.items():
        if preset not in made:
            made[preset] = work / str(len(made))
            recipe, _, blocks = preset.partition(":blocks=")
            settings = {"blocks": int(blocks)} if blocks else {}
            bivlm.quantize(
                embedded_model(), made[preset], recipe=recipe, settings=settings, embeddings=tables
            )
        yield name, made[preset], made[preset], ranks


def row_of(name: str, source: Path, dtype: str, told: Told, first: Told) -> list[str]:
    """What was told of a folder in a dtype; the ratio is to the speed of `first`."""
    samples = questions()
    model, processor = bivlm.load(source, dtype=DTYPES[dtype])
    differences = compared(model, processor, samples, told)
    same = sum(
        text.strip() == bivlm.answer(model, processor, sample.images[0], sample.question, max_new_tokens=4)
        for sample, text in zip(samples, told.texts, strict=True)
    )
    speeds = [f"{speed:.1f}" for speed in told.speed] or ["", ""]
    ratio = f"{told.speed[1] / first.speed[1]:.2f}" if told.speed else ""
    return [
        name,
        dtype,
        f"{same} of {len(samples)}",
        f"{max(differences):.4f}",
        f"{told.ready:.1f}",
        *speeds,
        ratio,
    ]


def questions() -> list[Sample]:
    return [Sample(image, question) for image in pictures() for question in QUESTIONS]


def rows_of(python: str, models: Sequence[Model]) -> Iterator[list[str]]:
    """The rows of models with as many ranks, by one process of vLLM."""
    model, processor = bivlm.load(embedded_model())
    prompts = prompts_of(model, processor, questions())
    asked = [
        Asked(
            folder,
            prompts,
            together=TOGETHER if ranks == 1 else 0,
            engine={"dtype": dtype, "tensor_parallel_size": ranks},
        )
        for dtype in DTYPES
        for _, _, folder, ranks in models
    ]
    told = ask_vllm(python, asked)
    for number, dtype in enumerate(DTYPES):
        of_dtype = told[number * len(models) : (number + 1) * len(models)]
        for (name, source, _, _), one in zip(models, of_dtype, strict=True):
            yield row_of(name, source, dtype, one, of_dtype[0])


def report(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as work:
        models, rows = list(folders(Path(work))), []
        for ranks in (1, 2):
            rows += rows_of(options.python, [model for model in models if model[-1] == ranks])
    print_table("vLLM next to transformers", COLUMNS, rows, "")
    if options.markdown is not None:
        machine = f"Machine: {describe()}. Command: `{command_of('bench_vllm.py', sys.argv[1:])}`."
        lines = [
            "# Packed folders in vLLM",
            (
                "The embedded model, asked by vLLM's CPU build and by transformers. The model is small and"
                " the machine shared: seconds and speeds are mostly vLLM's own, and vary from run to run."
            ),
            "\n".join(markdown_table(COLUMNS, rows)),
            machine,
        ]
        options.markdown.write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", required=True, help="the Python of an environment with vLLM and bivlm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", type=Path)
    run_script("bench_vllm", parser.parse_args(), report)
