"""Diagnosis of this installation: the kernel of each format on the CPU and of all formats on other devices,
and the reason for it, the machine, versions, and installed extras.

With a model folder, also the kernels of its packed linears; only config.json is read for this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from bivlm.checkpoint.complete import check_model_folder
from bivlm.checkpoint.guards import folder_blamed
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.modules import read_modules
from bivlm.checkpoint.place import packed_config
from bivlm.errors import InputError
from bivlm.formats import FORMATS
from bivlm.kernels import gpu
from bivlm.kernels.codes import why_reference
from bivlm.machine import machine
from bivlm.native.library import library, status

EXTRAS = ("easy-vqa", "matplotlib", "datasets", "triton")


@dataclass(frozen=True)
class KernelRow:
    """The kernel of a format, and why it is the reference kernel if it is."""

    format: str
    kernel: str
    why: str


@dataclass(frozen=True)
class DeviceRow:
    """The kernel of all formats on a device that is not the CPU, and why it is the reference kernel if it is.
    Without such a device `kernel` is empty, and `why` says what is missing.
    """

    device: str
    name: str
    kernel: str
    why: str


@dataclass(frozen=True)
class LinearsRow:
    """The number of a model's packed linears with the same format, kernel and reason."""

    format: str
    kernel: str
    linears: int
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """The result of `bivlm doctor`. `library` is the native library's file, or why it is not in use; an extra
    without a version is not installed.
    """

    library: str
    instruction_set: str | None
    kernels: tuple[KernelRow, ...]
    devices: tuple[DeviceRow, ...]
    processor: str
    threads: int
    memory_bytes: int
    memory_available_bytes: int
    versions: dict[str, str]
    extras: dict[str, str | None]
    model: str | None
    linears: tuple[LinearsRow, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(model: str | Path | None = None, trust_remote_code: bool = False) -> Diagnosis:
    """Examine this installation, and a packed model if given. InputError for a folder that is no packed
    model, and for environment variables that ask for something unavailable.
    """
    found, described = status(), machine()
    return Diagnosis(
        library=found.why,
        instruction_set=found.instruction_set,
        kernels=tuple(_kernel(name) for name in FORMATS),
        devices=tuple(_devices()),
        processor=described["processor"],
        threads=described["threads"],
        memory_bytes=described["memory_bytes"],
        memory_available_bytes=psutil.virtual_memory().available,
        versions={name: described[name] for name in ("bivlm", "python", "torch", "transformers")},
        extras={name: _version(name) for name in EXTRAS},
        model=None if model is None else str(model),
        linears=() if model is None else _linears(model, trust_remote_code),
    )


def _kernel(name: str) -> KernelRow:
    if name == "raw":
        return KernelRow(name, "torch", "")
    if library() is None:
        return KernelRow(name, "reference", "the native library is not in use")
    return KernelRow(name, "native", "")


def _devices() -> Iterator[DeviceRow]:
    """Every CUDA or ROCm device and Apple's, or what is missing for one."""
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        why = gpu.why_reference(torch.device("cuda", index))
        kernel = "reference" if why else "triton"
        yield DeviceRow(f"cuda:{index}", torch.cuda.get_device_name(index), kernel, why)
    if torch.backends.mps.is_available():
        yield DeviceRow("mps", "Apple GPU", "reference", "there are no kernels for it")
    elif not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        missing = "no card or no driver" if built else f"torch {torch.__version__} is built for the CPU alone"
        yield DeviceRow("cuda", "none found", "", missing)


def _linears(model: str | Path, trust_remote_code: bool) -> tuple[LinearsRow, ...]:
    folder = resolve_model(model, trust_remote_code)
    check_model_folder(folder, trust_remote_code=trust_remote_code)
    config = packed_config(folder)
    if config is None:
        raise InputError(f"{folder} is not packed by bivlm; give the folder of a packed model, or none")
    modules = read_modules(config["quantization_config"])
    with folder_blamed(folder):
        found = Counter(spec.format for spec in modules.values())
    why = why_reference()
    return tuple(
        LinearsRow(name, "reference" if why else "native", count, why)
        for name, count in sorted(found.items())
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
