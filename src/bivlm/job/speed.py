"""The speed of this machine, as small probes measure it: operations of torch in a model's dtype, and what the
calls around them take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bivlm.calibration.moments import add_products
from bivlm.checkpoint.shards import is_finite

WIDTH, TOKENS = 1024, 512  # of the products that probe torch
CALLS = 40  # small modules that take as long as a call of a block does that has next to nothing to multiply
GRADIENTS = 60  # the same for a call with its gradients, which hooks look at
SMALL = (8, 64)  # rows and columns of their inputs
READ = 1 << 23  # numbers that are read


@dataclass(frozen=True)
class Speed:
    """Of this machine in a dtype: operations per second of `passes` and of sums of `moments`; bytes per
    second that are read and checked (`reading`).

    `call` is the seconds of calling a block that has next to nothing to multiply, `back` those of calling it
    with gradients and passing them back.
    """

    passes: float
    moments: float
    reading: float
    call: float
    back: float


def speed_of(dtype: torch.dtype) -> Speed:
    """Measured in some tenths of a second."""
    operations, rows = 2 * TOKENS * WIDTH * WIDTH, torch.ones(TOKENS, WIDTH, dtype=torch.float32)
    total = torch.zeros(WIDTH, WIDTH, dtype=torch.float32)
    stored = torch.ones(READ, dtype=dtype)
    inputs, weight = torch.ones(TOKENS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    with torch.inference_mode():
        passes = _seconds(lambda: nn.functional.linear(inputs, weight))
        moments = _seconds(lambda: add_products(total, rows, rows, dtype))
        reading = _seconds(lambda: is_finite(stored.clone()))
    return Speed(
        operations / passes,
        operations / moments,
        stored.nbytes / reading,
        _call(dtype),
        _back(dtype),
    )


def _call(dtype: torch.dtype) -> float:
    """Seconds of small modules."""
    block, inputs = _small(CALLS, dtype), torch.ones(SMALL, dtype=dtype)
    with torch.inference_mode():
        return _seconds(lambda: block(inputs))


def _back(dtype: torch.dtype) -> float:
    """Seconds of small modules with the gradients of their inputs, which a hook looks at after each."""
    block, inputs = _small(GRADIENTS, dtype), torch.ones(SMALL, dtype=dtype)

    def look(gradient: Tensor) -> None:
        gradient.float().square().mean(1)

    def watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.register_hook(look)

    def work() -> None:
        hooks = [one.register_forward_hook(watch) for one in block]
        with torch.enable_grad():
            block(inputs.clone().requires_grad_()).sum().backward()
        for hook in hooks:
            hook.remove()

    return _seconds(work)


def _small(count: int, dtype: torch.dtype) -> nn.Sequential:
    linears = [nn.Linear(SMALL[1], SMALL[1], dtype=dtype, device="cpu") for _ in range(count)]
    return nn.Sequential(*linears).requires_grad_(False)


def _seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The median of some rounds, after one that does not count."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[rounds // 2]
