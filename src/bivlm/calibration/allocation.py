"""Bits where they matter: how much each group of linears does to the answers at a few numbers of bits, and how a budget is dealt out by that.

Linears that share an input (q, k and v; gate and up) are a group. A group alone is quantized, the rest of the model stays as it is, and the KL
divergence of the text's next tokens from the full-precision model's is measured; the token that follows the prompt counts as much as all others
together. Between the measured points the logarithm of the divergence is a straight line; beyond the last it falls by 2^(-2 bits), as the error of any
good quantizer does. Divergences of groups add up, nearly (the errors are small and independent), so that a greedy choice is the best one up to the
last few steps: the next steps of bits, one or several at once, go where they lower the sum most for the bytes that they take. No group gets less
than LESS below the budget or more than MORE above (less only where the scales alone leave no choice): a measurement on a few prompts is not to be
trusted to the end.

This needs the full-precision model in memory. Finished blocks are kept in a file, so that an interrupted measurement goes on.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bivlm.calibration.stats import StatsCollector
from bivlm.checkpoint.shards import read_json, write_atomically
from bivlm.errors import InputError
from bivlm.quantizers import Quantizer, Trellis

PROBES = (1.0, 2.0, 3.0)  # bits at which a group is measured
LEAST, MOST, STEP = 0.5, 4.0, 0.125  # bits that a group can get
LESS, MORE = 0.75, 1.5  # than the budget, at most
SMALLEST = 1e-9  # nats: a smaller divergence is not told from none


@dataclass(frozen=True)
class Sensitivity:
    """What a group of linears does to the answers: divergences (nats per token) at some bits, ascending."""

    linears: tuple[str, ...]
    bits: tuple[float, ...]
    divergences: tuple[float, ...]

    def at(self, bits: float) -> float:
        """The divergence at any number of bits."""
        falling = [max(self.divergences[i:]) for i in range(len(self.bits))]
        logs = [math.log(max(value, SMALLEST)) for value in falling]
        if bits >= self.bits[-1]:
            return math.exp(logs[-1] - 2 * math.log(2) * (bits - self.bits[-1]))
        upper = max(1, next(i for i, place in enumerate(self.bits) if bits < place))
        left, right = self.bits[upper - 1], self.bits[upper]
        return math.exp(logs[upper] + (logs[upper - 1] - logs[upper]) * (right - bits) / (right - left))


def probe_block(
    linears: Mapping[str, nn.Linear], quantizers: Mapping[str, Quantizer], collector: StatsCollector, divergence: Callable[[], float]
) -> list[Sensitivity]:
    """Measure every group of a block whose linears `collector` has watched. `divergence` says how far the model is from full precision now.

    InputError, naming the linear, where its weight cannot be quantized or the answers are no numbers.
    """
    found = []
    for group in collector.groups():
        measured = []
        for bits in PROBES:
            originals = {name: linears[name].weight for name in group}
            try:
                for name, original in originals.items():
                    weight = _quantized(name, original.data, with_bits(quantizers[name], bits), collector)
                    linears[name].weight = nn.Parameter(weight, requires_grad=False)
                measured.append(divergence())
            finally:
                for name, original in originals.items():
                    linears[name].weight = original
        if not all(map(math.isfinite, measured)):
            raise InputError(f"{group[0]}: with it quantized the model's logits are NaN or infinite on the calibration data; calibrate on other data")
        found.append(Sensitivity(tuple(group), PROBES, tuple(measured)))
    return found


def _quantized(name: str, weight: Tensor, quantizer: Quantizer, collector: StatsCollector) -> Tensor:
    """The weight (out, in) as the quantizer leaves it, in its dtype."""
    try:
        return quantizer.quantize(weight, collector.stats(name)).dequantize().to(weight.dtype)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def with_bits(quantizer: Quantizer, bits: float) -> Quantizer:
    """The quantizer with another number of bits. InputError for one whose bits are not any number."""
    if not isinstance(quantizer, Trellis):
        raise InputError(f"a budget is dealt out among linears of the quantizer trellis, not {quantizer.name}; choose one of the trellis presets")
    return replace(quantizer, bits=bits)


def check_budget(quantizers: Mapping[str, Quantizer], shapes: Mapping[str, tuple[int, int]], budget: float) -> None:
    """InputError when linears (by name) with these quantizers and shapes cannot take `budget` true bits per weight together, with what they can."""
    weights = sum(math.prod(shapes[name]) for name in quantizers)
    fewest, most = (
        sum(with_bits(quantizer, bits).bits_bound(shapes[name]) * math.prod(shapes[name]) for name, quantizer in quantizers.items()) / weights
        for bits in (LEAST, MOST)
    )
    if not fewest <= budget <= most:
        raise InputError(f"a budget of {budget:g} bits is out of reach: these linears take {fewest:.2f} … {most:.2f} true bits per weight")


def deal_out(
    sensitivities: Sequence[Sensitivity], quantizers: Mapping[str, Quantizer], shapes: Mapping[str, tuple[int, int]], budget: float
) -> dict[str, float]:
    """Bits for every linear: together they take at most `budget` true bits per weight, scales and all, and the divergences add up to the least.

    `quantizers` and `shapes` are those of the linears, by name. InputError when the budget cannot be reached, with what can.
    """
    stored = _stored_bits(sensitivities, quantizers, shapes)
    groups = range(len(sensitivities))
    weights = sum(math.prod(shapes[name]) for group in sensitivities for name in group.linears)
    check_budget({name: quantizers[name] for group in sensitivities for name in group.linears}, shapes, budget)
    least = min(MOST, max(LEAST, math.ceil((budget - LESS) / STEP) * STEP))
    highest = min(MOST, math.floor((budget + MORE) / STEP) * STEP)
    while least > LEAST and sum(stored(index, least) for index in groups) > budget * weights:  # small linears, whose scales take more than LESS
        least = max(LEAST, least - STEP)
    given = [least] * len(sensitivities)
    left = budget * weights - sum(stored(index, least) for index in groups)

    def rise(index: int) -> tuple[float, int, float] | None:
        """The next bits of a group, of those that still fit, where it gains most for what it takes; several steps at once where they gain more."""
        group, here = sensitivities[index], given[index]
        found = []
        for bits in (here + STEP * count for count in range(1, 1 + int((highest - here) / STEP))):
            size = stored(index, bits) - stored(index, here)
            if size <= left:
                found.append(((group.at(bits) - group.at(here)) / max(size, 1), index, bits))
        return min(found, default=None)

    rises = [found for index in groups if (found := rise(index)) is not None]
    heapq.heapify(rises)
    while rises:
        _, index, bits = heapq.heappop(rises)
        size = stored(index, bits) - stored(index, given[index])
        if size <= left:
            given[index] = bits
            left -= size
        if (found := rise(index)) is not None:
            heapq.heappush(rises, found)
    return {name: bits for group, bits in zip(sensitivities, given, strict=True) for name in group.linears}


def _stored_bits(
    sensitivities: Sequence[Sensitivity], quantizers: Mapping[str, Quantizer], shapes: Mapping[str, tuple[int, int]]
) -> Callable[[int, float], int]:
    """What a group, by its index, takes at most when its linears get so many bits each: true bits in all."""

    @cache
    def bound(quantizer: Quantizer, shape: tuple[int, int], bits: float) -> int:
        return round(with_bits(quantizer, bits).bits_bound(shape) * math.prod(shape))

    return lambda index, bits: sum(bound(quantizers[name], shapes[name], bits) for name in sensitivities[index].linears)


@dataclass(frozen=True)
class Measured:
    """A file of sensitivities, block by block: what is finished is not measured again."""

    path: Path

    def read(self) -> dict[str, list[Sensitivity]]:
        if not self.path.exists():
            return {}
        blocks = read_json(self.path)
        return {
            block: [Sensitivity(tuple(one["linears"]), tuple(one["bits"]), tuple(one["divergences"])) for one in found]
            for block, found in blocks.items()
        }

    def write(self, blocks: Mapping[str, Sequence[Sensitivity]]) -> None:
        write_atomically(self.path, json.dumps({block: [asdict(one) for one in found] for block, found in blocks.items()}, indent=1) + "\n")


def divergence_of(reference: Sequence[Tensor], logits: Sequence[Tensor], last: float = 0.5) -> float:
    """Mean KL divergence (nats) of the raw logits (t, vocabulary) of some prompts from the reference's; `last` is the share of each last row."""
    total = 0.0
    for expected, given in zip(reference, logits, strict=True):
        log_p, log_q = expected.float().log_softmax(-1), given.float().log_softmax(-1)
        rows = (log_p.exp() * (log_p - log_q)).sum(-1)
        total += float((1 - last) * rows.mean() + last * rows[-1])
    return total / len(reference)


@torch.inference_mode()
def text_logits(model: nn.Module, inputs: Sequence[Mapping[str, Tensor]], visual: Sequence[Tensor]) -> list[Tensor]:
    """The logits (t, vocabulary) at the text tokens of each prompt, where `visual` (t,) is False."""
    return [model(**tensors, use_cache=False).logits[0, ~mask] for tensors, mask in zip(inputs, visual, strict=True)]
