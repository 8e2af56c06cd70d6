"""Measuring on a CUDA or ROCm card: seconds by the card's own clock, its memory's rate, its name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from machine import describe

READ_BYTES = 1 << 31
WARM_UP = 3
Run = Callable[[], object]


def require_card(name: str) -> None:
    """Without a card: one line, exit code 2."""
    if not torch.cuda.is_available():
        print(
            f"{name}: there is no CUDA or ROCm card here; `bivlm doctor` says what is missing",
            file=sys.stderr,
        )
        sys.exit(2)


def card_name() -> str:
    """The card's name, for a file: NVIDIA H100 80GB HBM3 is nvidia-h100-80gb-hbm3."""
    letters = "".join(c if c.isalnum() else " " for c in torch.cuda.get_device_name().lower())
    return "-".join(letters.split())


def describe_card() -> str:
    """Card, memory, versions, and the machine that it is in."""
    found = torch.cuda.get_device_properties(0)
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "not installed"
    toolkit = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return (
        f"{found.name}, {found.total_memory / 1e9:.0f} GB, {found.multi_processor_count} multiprocessors;"
        f" {toolkit}, Triton {triton}; in {describe()}"
    )


def cache_bytes() -> int:
    """The card's second-level cache; 32 MiB where torch does not tell."""
    return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 32 << 20


def seconds_of(run: Run, rounds: int) -> float:
    """The smallest time of some rounds between two events, after a warm-up."""
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return min(times)


def captured(run: Run) -> Run | None:
    """`run` as a CUDA graph, without what Python takes to launch its kernels; None if it cannot be
    captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        torch.cuda.synchronize()
        print(f"no CUDA graph: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return graph.replay


def bandwidth() -> float:
    """Bytes per second of the card's memory: the better of reading a buffer and of copying it."""
    buffer = torch.ones(READ_BYTES // 4, device="cuda")
    other = torch.empty_like(buffer)
    read = buffer.nbytes / seconds_of(buffer.amax, 5)
    copied = 2 * buffer.nbytes / seconds_of(lambda: other.copy_(buffer), 5)
    return max(read, copied)
