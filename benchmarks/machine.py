"""What a measurement was made on: one line that goes with every result."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch
import transformers

import bivlm


def describe() -> str:
    """Processor, threads, versions and commit."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    commit = (
        subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip()
        or "unknown"
    )
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers"
        f" {transformers.__version__}, bivlm {bivlm.__version__}"
    )
    return f"{cpu}, {torch.get_num_threads()} threads; {versions}; commit {commit}"
