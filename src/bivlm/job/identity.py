"""What decides the result of a job: what the user asked for, the calibration data, and the circumstances."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from bivlm import __version__
from bivlm.calibration.inputs import CalibrationInput
from bivlm.job.device import CPU, facts
from bivlm.job.request import Request


def identity(request: Request, inputs: Sequence[CalibrationInput] = ()) -> dict[str, Any]:
    """What the user decided about the result, besides the source: a folder made with the same is its
    result.
    """
    described: dict[str, Any] = {
        "recipe": request.recipe.to_dict(),
        "parts": list(request.parts),
        "bivlm": __version__,
    }
    if request.pruning is not None:
        described["pruning"] = request.pruning.to_dict()
    if request.merge_adapter:
        described["merge_adapter"] = True
    if request.trust_remote_code:
        described["trust_remote_code"] = True
    if request.pixels:
        described["pixels"] = request.pixels.to_dict()
    if inputs:
        described["data"] = data_digest(inputs)
    return described


def data_digest(inputs: Sequence[CalibrationInput]) -> str:
    """SHA-256 of calibration inputs and their targets."""
    found = hashlib.sha256()
    for sample in inputs:
        for name, tensor in sorted({**sample.tensors, "targets": sample.targets}.items()):
            found.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def circumstances(inputs: Sequence[CalibrationInput], device: torch.device = CPU) -> dict[str, Any]:
    """What else decides the bytes of the result; unfinished work is continued only if it is equal."""
    if not inputs:
        return {}
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **facts(device),
    }
