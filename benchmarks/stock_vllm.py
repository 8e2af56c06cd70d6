"""vLLM in an environment of its own, asked the same questions as transformers. It needs another transformers
than bivlm, so it never runs in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bivlm.errors import InputError
from bivlm.families import family_of
from bivlm.families.prompts import prompt_text
from bivlm.types import Sample
from stock_llama import TOP, Steps, largest_difference, logits_of

CHILD = Path(__file__).with_name("vllm_child.py")


@dataclass(frozen=True)
class Told:
    """What vLLM answered: for every sample the tokens of its prompt and the steps of the answer; the seconds
    until the engine stood; tokens per second, if they were measured.
    """

    prompts: list[list[int]]
    steps: list[Steps]
    texts: list[str]
    ready: float
    speed: list[float]


def ask_vllm(
    python: str,
    folder: Path,
    texts: Sequence[tuple[str, Image.Image | None]],
    tokens: int = 4,
    together: int = 0,
    **engine: Any,
) -> Told:
    """vLLM's greedy answers to prompts with their images; `engine` are arguments of its `LLM`. InputError
    with the last line of what it said where it fails.
    """
    with tempfile.TemporaryDirectory() as work:
        prompts = []
        for number, (text, image) in enumerate(texts):
            file = Path(work) / f"{number}.png"
            if image is not None:
                image.save(file)
            prompts.append({"text": text, "image": None if image is None else str(file)})
        out = Path(work) / "out.json"
        request = {
            "folder": str(folder),
            "out": str(out),
            "prompts": prompts,
            "tokens": tokens,
            "top": TOP,
            "engine": {"enforce_eager": True, **engine},
            "together": together,
        }
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        said = subprocess.run(
            [python, str(CHILD)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=work,
            env={**os.environ, **threads},
        )
        if not out.exists():
            lines = [line for line in (said.stdout + said.stderr).splitlines() if "Error" in line]
            raise InputError(f"vLLM failed: {lines[-1] if lines else said.stderr[-300:]}")
        told = json.loads(out.read_text())
    return Told(
        [one["prompt"] for one in told["answers"]],
        [[dict(step) for step in one["steps"]] for one in told["answers"]],
        [one["text"] for one in told["answers"]],
        told["ready"],
        told.get("speed", []),
    )


def compared(model: Any, processor: Any, samples: Sequence[Sample], told: Told) -> list[float]:
    """For every sample the largest difference between vLLM's log-probabilities and those of transformers'
    model for the same answer. InputError if both read different prompts.
    """
    family, found = family_of(model.config), []
    for sample, prompt, steps in zip(samples, told.prompts, told.steps, strict=True):
        inputs = family.inputs(processor, [sample], [sample.images])
        if inputs["input_ids"][0].tolist() != prompt:
            raise InputError(f"vLLM reads another prompt for {sample.question!r}")
        found.append(largest_difference(logits_of(model, processor, sample, steps), steps))
    return found


def prompts_of(model: Any, processor: Any, samples: Sequence[Sample]) -> list[tuple[str, Image.Image | None]]:
    """The prompts of questions about one image or none, with their images."""
    family = family_of(model.config)
    return [
        (prompt_text(processor, family, sample), sample.images[0] if sample.images else None)
        for sample in samples
    ]
