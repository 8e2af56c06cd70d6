"""The speed of this machine, as small probes measure it: operations of torch in a model's dtype, and what
each method takes for a weight of a shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bivlm.calibration.moments import add_products
from bivlm.formats import FORMATS
from bivlm.job.weight import packed_errors
from bivlm.quantizers import Quantizer
from bivlm.types import LinearStats

ROWS, COLUMNS = (128, 512), (512, 1024)  # of the weights that probe a quantizer
TOKENS = 512  # of the products that probe torch
STEPS = 40  # small operations that a call of a block takes, with what watches it


@dataclass(frozen=True)
class Speed:
    """Of this machine in a model's dtype: operations per second of passes and of sums of moments, and the
    seconds of calling a block that has next to nothing to multiply.
    """

    passes: float
    moments: float
    call: float


def speed_of(dtype: torch.dtype) -> Speed:
    """Measured in some hundredths of a second."""
    width = COLUMNS[1]
    inputs, weight = torch.ones(TOKENS, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    total, rows = torch.zeros(width, width, dtype=torch.float32), inputs.float()
    operations = 2 * TOKENS * width * width
    with torch.inference_mode():
        passes = _seconds(lambda: nn.functional.linear(inputs, weight))
        moments = _seconds(lambda: add_products(total, rows, rows, dtype))
        call = STEPS * _seconds(lambda: nn.functional.linear(inputs[:8, :64], weight[:64, :64]))
    return Speed(operations / passes, operations / moments, call)


def _seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The median of some rounds, after one that does not count."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[rounds // 2]


@dataclass(frozen=True)
class Cost:
    """Seconds of quantizing, packing, judging and decoding a weight (out, in):
    out · in · (`weight` + in · `row`) + in³ · `factor`.
    """

    weight: float
    row: float
    factor: float

    def seconds(self, shape: tuple[int, int]) -> float:
        out, columns = shape
        return out * columns * (self.weight + columns * self.row) + columns**3 * self.factor


def cost_of(quantizer: Quantizer) -> Cost:
    """Fitted to three random weights: a short one, a tall one, a narrow one."""
    _probe(quantizer, (64, COLUMNS[0]))  # the first call loads libraries
    (low, high), (narrow, wide) = ROWS, COLUMNS
    short, tall, slim = (_probe(quantizer, shape) for shape in ((low, wide), (high, wide), (high, narrow)))
    each = max((tall - short) / (high - low), 0.0)  # seconds of a row of `wide` columns
    factor = max(short - low * each, 0.0) / wide**3
    each_slim = max(slim - factor * narrow**3, 0.0) / high
    row = max((each / wide - each_slim / narrow) / (wide - narrow), 0.0)
    return Cost(max(each / wide - wide * row, 0.0), row, factor)


def _probe(quantizer: Quantizer, shape: tuple[int, int]) -> float:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float32)
    inputs = torch.randn(64, shape[1], generator=generator, dtype=torch.float32)
    stats = LinearStats(
        {"text": torch.eye(shape[1], dtype=torch.float32)},
        {"text": 4 * shape[1]},
        visual_share=0.0,
        fisher=weight.square(),
        inputs=inputs,
        inputs_visual=torch.zeros(len(inputs), dtype=torch.bool),
    )
    started = time.perf_counter()
    packed = quantizer.quantize(weight, stats).encode()
    packed_errors(weight, packed, stats if quantizer.needs_data else None)
    if quantizer.needs_data:
        FORMATS[packed.format].decode(packed).dequantize()
    return time.perf_counter() - started
