"""What has to be the same in all processes of a crew, or the bytes would depend on who did what."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from bivlm import __version__
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import Crew
from bivlm.native.library import library


def check_same(crew: Crew, source: SourceModel, job: Mapping[str, Any]) -> None:
    """InputError, naming which rank has what, if versions, processors, the model's files, or what the user
    asked for (`job`) are not the same on all ranks.
    """
    if crew.size > 1:
        crew.compare(place_facts())
        crew.compare({**job, "the model's files": source.digests})


def place_facts() -> dict[str, Any]:
    """What decides the last bits of a number on this machine, by name."""
    native = library()
    return {
        "the version of bivlm": __version__,
        "the version of torch": torch.__version__,
        "the version of transformers": transformers.__version__,
        "the version of Python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "torch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "products in bfloat16": torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "bivlm's instruction set": "none" if native is None else native.instruction_set,
        "torch's default dtype": str(torch.get_default_dtype()),
    }
