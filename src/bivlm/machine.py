"""The machine on which a result was made, and the memory that this took."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from bivlm import __version__

# what Linux's /proc/self/clear_refs takes to set the peak resident size (VmHWM) back to the present one
RESET_PEAK = "5"


def machine() -> dict[str, Any]:
    """Processor, threads, memory and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bivlm": __version__,
    }


def machine_line(described: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {described[name]}" for name in ("torch", "transformers", "bivlm"))
    memory = f"{described['memory_bytes'] / 1e9:.0f} GB"
    return (
        f"{described['processor']}, {described['threads']} threads, {memory}; Python {described['python']},"
        f" {versions}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


def reset_peak_memory() -> bool:
    """Begin a new peak of this process's resident memory; False where the system cannot (anything but Linux,
    some containers).
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="utf-8")
    except OSError:
        return False
    return True


def peak_memory() -> int | None:
    """The most bytes that were resident since `reset_peak_memory`; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def return_free_memory() -> None:
    """Give the pages that are free inside the process's heap back to the system, where the C library can
    (glibc's malloc_trim). Hours of large temporaries leave gigabytes of them between small ones that are in
    use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
