"""What each method takes for a weight of a shape on this machine, as a few small weights tell, which are as
wide as those of the model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations

import numpy as np
import torch

from bivlm.calibration.propagation import propagated
from bivlm.formats import FORMATS
from bivlm.job.weight import packed_errors
from bivlm.machine import return_free_memory
from bivlm.quantizers import Quantizer
from bivlm.types import LinearStats

ROWS = (64, 192)  # of the weights that probe a quantizer
WIDTHS = 2  # of a model's are probed: those of most of its weights
NARROW, WIDEST = 128, 1536  # columns: what is probed in any case, and at most


@dataclass(frozen=True)
class Cost:
    """Seconds of quantizing, packing, judging and decoding a weight (out, in):
    `call` + in · `column` + out · in · (`weight` + in · `row`) + in³ · `factor`.
    """

    call: float
    column: float
    weight: float
    row: float
    factor: float

    def seconds(self, shape: tuple[int, int]) -> float:
        return float(np.dot(astuple(self), _terms(shape)))


def cost_of(quantizer: Quantizer, weights: Mapping[int, int], propagation: float = 0.0) -> Cost:
    """Fitted to the probes of a quantizer for a model that has so many `weights` of every width, which are
    corrected for earlier errors first if there is `propagation`.
    """
    widths = sorted(_probed(weights))
    _probe(quantizer, (ROWS[0], widths[0]), propagation)  # the first call loads libraries
    shapes = [(rows, width) for width in widths for rows in ROWS]
    return fitted_cost(shapes, [_probe(quantizer, shape, propagation) for shape in shapes])


def fitted_cost(shapes: Sequence[tuple[int, int]], seconds: Iterable[float]) -> Cost:
    """The cost without negative terms that comes closest to the seconds of weights of some shapes: least
    squares of the relative errors, over every choice of terms that may be other than zero.
    """
    taken = np.array(list(seconds))
    relative = np.array([_terms(shape) for shape in shapes]) / taken[:, None]
    unit = relative.max(0)  # terms of one size, so that the equations are well-conditioned
    best, least = np.zeros(len(unit)), np.inf
    for count in range(1, len(unit) + 1):
        for some in map(list, combinations(range(len(unit)), count)):
            found = np.linalg.lstsq(relative[:, some] / unit[some], np.ones(len(taken)), rcond=None)[0]
            lost = float(np.square(relative[:, some] / unit[some] @ found - 1).sum())
            if found.min() >= 0 and lost < least:
                best, least = np.zeros(len(unit)), lost
                best[some] = found / unit[some]
    return Cost(*map(float, best))


def _terms(shape: tuple[int, int]) -> tuple[float, ...]:
    """What the terms of a cost are multiplied by."""
    out, columns = map(float, shape)
    return 1.0, columns, out * columns, out * columns**2, columns**3


def _probed(weights: Mapping[int, int]) -> set[int]:
    """The widths of most weights, none wider than WIDEST, and a narrow one."""
    most = sorted(weights, key=lambda width: -weights[width])
    own = list(dict.fromkeys(min(width, WIDEST) for width in most))[:WIDTHS]
    return {*own, NARROW}


def _probe(quantizer: Quantizer, shape: tuple[int, int], propagation: float) -> float:
    """Seconds of one random weight of a shape, from the memory that the weight before it has left."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float32)
    inputs = torch.randn(64, shape[1], generator=generator, dtype=torch.float32)
    moment = torch.eye(shape[1], dtype=torch.float32)
    stats = LinearStats(
        {"text": moment},
        {"text": 4 * shape[1]},
        {"text": 0.01 * moment} if propagation else None,
        visual_share=0.0,
        fisher=weight.square(),
        inputs=inputs,
        inputs_visual=torch.zeros(len(inputs), dtype=torch.bool),
    )
    started = time.perf_counter()
    return_free_memory()
    target = propagated(weight, stats, propagation, quantizer.modality_weight) if propagation else weight
    packed = quantizer.quantize(target, stats).encode()
    seen = stats if quantizer.needs_data or propagation else None
    packed_errors(weight, packed, seen)
    if seen is not None:
        FORMATS[packed.format].decode(packed).dequantize()
    return time.perf_counter() - started
