"""What an export to llama.cpp costs: sizes, answers, and the error of storing packed weights once more.

    python benchmarks/bench_export.py [--threads 1] [--markdown docs/results/export.md]

Answers. The embedded model, in full precision and packed in several ways, is exported, and stock llama.cpp
(the package xllamacpp) answers three questions about each of three pictures of the model's own size. The same
answer is given to transformers' model; the difference is the largest one of the log-probabilities of the five
most probable tokens at each step.

Weights. Normal weights (256 rows, 1024 columns) are packed by the trellis in two bits without data, and
stored again in ggml's types (the package ik-llama-cpp-python, without an importance matrix). The error is the
mean squared one relative to the weights' own mean square.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import bivlm
from bivlm.quantizers.trellis import Trellis
from bivlm.types import Sample
from bivlm.zoo import embedded_model
from ik_llama import Library, package_folder
from machine import describe
from preset_tables import command_of, markdown_table, print_table
from script import run_script
from stock_llama import LlamaCpp, largest_difference, logits_of

TERNARY = {"alphabet": 3, "group_size": 256, "zero_point": "middle", "scale_bits": 16}
PACKED = {"trellis-2": {}, "sign-1": {}, "rtn-2": TERNARY}
TYPES = {"Q8_0": (8, 8.5), "Q6_K": (14, 6.5625), "Q4_K": (12, 4.5), "Q3_K": (11, 3.4375), "Q2_K": (10, 2.625)}
QUESTIONS = ("What color is the shape?", "Is there a blue shape?", "What shape is in the image?")
SHAPES = {"red": "rectangle", "blue": "ellipse", "teal": "rectangle"}
ANSWERS = ("model", "as", " folder MB", " GGUF MB", "types", " same answers", " difference")
WEIGHTS = ("ggml type", " bits", " error of the type alone", " error after the trellis")


def pictures() -> Iterator[Image.Image]:
    """Shapes on white, 64 by 64 pixels."""
    for colour, shape in SHAPES.items():
        image = Image.new("RGB", (64, 64), "white")
        getattr(ImageDraw.Draw(image), shape)((16, 8, 48, 40), fill=colour)
        yield image


def answers_row(name: str, source: Path, kind: str, out: Path) -> list[str]:
    """A folder, exported and asked."""
    done = bivlm.export_gguf(source, out, kind=kind, overwrite=True)
    model, processor = bivlm.load(source, dtype=torch.float32)
    server, same, differences = LlamaCpp(out), 0, []
    for image in pictures():
        for question in QUESTIONS:
            sample = Sample(image, question)
            steps = server.answer(sample, 4)
            differences.append(largest_difference(logits_of(model, processor, sample, steps), steps))
            words = processor.tokenizer.decode([next(iter(step)) for step in steps], skip_special_tokens=True)
            same += words.strip() == bivlm.answer(model, processor, image, question, max_new_tokens=4)
    folder = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    return [
        name,
        kind,
        f"{folder / 1e6:.1f}",
        f"{sum(done.files.values()) / 1e6:.1f}",
        ", ".join(f"{one} {count}" for one, count in done.types.items()),
        f"{same} of {len(differences)}",
        f"{max(differences):.4f}",
    ]


def all_answers(work: Path) -> Iterator[list[str]]:
    """The rows of the first table."""
    for kind in ("F16", "Q8_0"):
        yield answers_row("full precision", embedded_model(), kind, work / "gguf")
    for preset, settings in PACKED.items():
        packed = work / preset
        bivlm.quantize(embedded_model(), packed, recipe=preset, settings=settings)
        name = (
            preset
            if not settings
            else f"{preset}:" + ",".join(f"{key}={value}" for key, value in settings.items())
        )
        yield answers_row(name, packed, "F16", work / "gguf")


def all_weights() -> Iterator[list[str]]:
    """The rows of the second table."""
    weight = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    packed = Trellis(feedback=False).quantize(weight, None)
    library, power = Library(package_folder()), weight.square().mean()

    def error(other: torch.Tensor) -> str:
        return f"{float((other - weight).square().mean() / power):.4f}"

    yield [
        "none (the trellis alone)",
        f"{packed.encode().bits_per_weight():.2f}",
        "",
        error(packed.dequantize()),
    ]
    for name, (kind, bits) in TYPES.items():
        alone, after = library.rounded(kind, weight), library.rounded(kind, packed.dequantize())
        yield [name, f"{bits:.2f}", error(alone), error(after)]


def report(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as work:
        answers = list(all_answers(Path(work)))
    weights = list(all_weights())
    print_table("Answers", ANSWERS, answers, "")
    print_table("Weights", WEIGHTS, weights, "")
    if options.markdown is not None:
        machine = f"Machine: {describe()}. Command: `{command_of('bench_export.py', sys.argv[1:])}`."
        lines = [
            "# Exports to llama.cpp",
            "The embedded model, asked by llama.cpp and by transformers.",
            "\n".join(markdown_table(ANSWERS, answers)),
            "Normal weights in ggml's types, alone and after the trellis; relative mean squared error.",
            "\n".join(markdown_table(WEIGHTS, weights)),
            machine,
        ]
        options.markdown.write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", type=Path)
    run_script("bench_export", parser.parse_args(), report)
