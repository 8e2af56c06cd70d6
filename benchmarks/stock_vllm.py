"""vLLM in an environment of its own, asked the same questions as transformers. It needs another transformers
than bivlm, so it never runs in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


Prompt = tuple[str, Image.Image] | list[int]


@dataclass(frozen=True)
class Asked:
    """What one engine is asked: prompts with their images, or as tokens alone; `tokens` of each answer; with
    `together`, also the speed of so many at once. `engine` are arguments of vLLM's `LLM`.
    """

    folder: Path
    prompts: Sequence[Prompt]
    tokens: int = 4
    together: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)

    def request(self, work: Path) -> dict[str, Any]:
        """It as JSON, with the images as files of a folder."""
        prompts = []
        for prompt in self.prompts:
            if isinstance(prompt, list):
                prompts.append({"ids": prompt})
                continue
            file = work / f"{len(list(work.iterdir()))}.png"
            prompt[1].save(file)
            prompts.append({"text": prompt[0], "image": str(file)})
        return {
            "folder": str(self.folder),
            "prompts": prompts,
            "tokens": self.tokens,
            "top": TOP,
            "engine": {"enforce_eager": True, **self.engine},
            "together": self.together,
        }


@dataclass(frozen=True)
class Told:
    """What vLLM answered: for every prompt its tokens, the steps of the answer, and its text; the seconds
    until the engine stood; tokens per second, if they were asked for.
    """

    prompts: list[list[int]]
    steps: list[Steps]
    texts: list[str]
    ready: float
    speed: list[float]


def ask_vllm(python: str, asked: Sequence[Asked]) -> list[Told]:
    """vLLM's greedy answers, by one process, an engine after the other. InputError with the last error that
    it told where it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        request = {"out": str(work / "out.json"), "runs": [one.request(work) for one in asked]}
        said = subprocess.run(
            [python, str(CHILD)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=work,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        if not (work / "out.json").exists():
            told = (said.stdout + said.stderr).splitlines()
            lines = [line.strip() for line in told if "Error: " in line or "Value error, " in line]
            raise InputError(f"vLLM failed: {lines[-1] if lines else said.stderr[-300:]}")
        return [_told(one) for one in json.loads((work / "out.json").read_text())]


def _told(run: dict[str, Any]) -> Told:
    return Told(
        [one["prompt"] for one in run["answers"]],
        [[dict(step) for step in one["steps"]] for one in run["answers"]],
        [one["text"] for one in run["answers"]],
        run["ready"],
        run.get("speed", []),
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


def prompts_of(model: Any, processor: Any, samples: Sequence[Sample]) -> list[Prompt]:
    """The prompts of questions about one image, as text, since vLLM puts the image's tokens in itself; of
    questions without one, as tokens.
    """
    family = family_of(model.config)
    return [
        (prompt_text(processor, family, sample), sample.images[0])
        if sample.images
        else family.inputs(processor, [sample], [()])["input_ids"][0].tolist()
        for sample in samples
    ]
