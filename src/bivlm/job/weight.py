"""One weight: read, corrected for earlier errors, quantized, packed, and measured."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bivlm.calibration.propagation import propagated
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.formats import FORMATS, PackedTensor
from bivlm.formats.base import QuantizedWeight
from bivlm.formats.lowrank import shared_tensors
from bivlm.job.plan import WeightPlan
from bivlm.profile import part
from bivlm.quantizers import Quantizer
from bivlm.quantizers.base import GroupQuantizer
from bivlm.types import LinearStats

ROWS_AT_ONCE = 1 << 14  # rows whose errors are summed at a time
# Of a weight with more rows, so many tell its layer error, evenly spread. Fewer mislead: the outputs' energy
# lies in a few rows, and with 128 of 576 the error of one weight was taken for three times what it is.
LAYER_ERROR_ROWS = 512
ENERGY_COLUMNS = 512  # that are multiplied at a time
BOUND_SLACK = 1.05  # the length of position lists depends on the weights: a bound may be exceeded by this


@dataclass(frozen=True)
class WeightReport:
    """The result for one weight. Errors are relative: `weight_error` ‖W-Q‖²/‖W‖², `layer_error`
    tr((W-Q)H(W-Q)ᵀ)/tr(WHWᵀ), on evenly spread rows of a tall weight, None without data.

    `notes` are the warnings of the quantizer: a damping that had to be raised, inputs that are all zero.
    `tokens` of the calibration data reached an expert; None for every other weight.
    """

    weights: int
    stored_bytes: int
    bits_per_weight: float
    paper_bits: float | None
    weight_error: float
    layer_error: float | None
    notes: tuple[str, ...] = ()
    tokens: int | None = None


def weight_of(source: SourceModel, name: str) -> Tensor:
    """The weight (out, in) of a linear or a table as stored in the source."""
    with part("reading"):
        return next(iter(source.read([f"{name}.weight"]).values()))


def quantize_weight(
    source: SourceModel, plan: WeightPlan, stats: LinearStats | None, propagation: float = 0.0
) -> tuple[PackedTensor, WeightReport]:
    """One weight as `quantize_weights` makes it."""
    return quantize_weights(source, [plan], stats, propagation)[plan.name]


def quantize_weights(
    source: SourceModel, plans: Sequence[WeightPlan], stats: LinearStats | None, propagation: float = 0.0
) -> dict[str, tuple[PackedTensor, WeightReport]]:
    """Read the weights of one input, mostly one alone, correct them for earlier errors, quantize them
    together, pack them, and measure the errors of the packed weights, which are on the CPU. All of this
    happens where the statistics are, if the quantizer works there. A tensor that several of them have counts
    with the first.

    Raises InputError, naming the weight, if the quantizer refuses it or breaks its contract.
    """
    quantizer = plans[0].quantizer
    assert quantizer is not None
    weights = [weight_of(source, plan.name) for plan in plans]
    if stats is not None and not quantizer.on_cards:
        stats = stats.to(weights[0].device)
    elif stats is not None:
        weights = [weight.to(stats.device) for weight in weights]
    names = ", ".join(plan.name for plan in plans)
    try:
        with part("feedback and fits"), _noting() as notes:
            targets = weights
            if stats is not None and propagation:
                targets = [
                    propagated(weight, stats, propagation, quantizer.modality_weight) for weight in weights
                ]
            quantized = quantize_checked(quantizer, targets, stats)
    except ValueError as error:
        raise InputError(f"{names}: {error}") from error
    with part("packing"):
        packed = {plan.name: one.encode() for plan, one in zip(plans, quantized, strict=True)}
    own = own_bytes(packed)
    made: dict[str, tuple[PackedTensor, WeightReport]] = {}
    for (name, one), weight, form in zip(packed.items(), weights, quantized, strict=True):
        report = WeightReport(
            weights=weight.numel(),
            stored_bytes=own[name],
            bits_per_weight=8 * own[name] / weight.numel(),
            paper_bits=quantizer.paper_bits(form),
            **packed_errors(weight, one, stats),
            notes=tuple(notes),
            tokens=None if stats is None else stats.seen,
        )
        made[name] = replace(one, tensors={key: value.cpu() for key, value in one.tensors.items()}), report
    check_bound(quantizer, packed, names)
    return made


def own_bytes(packed: Mapping[str, PackedTensor]) -> dict[str, int]:
    """The bytes that each weight stores; a tensor that an earlier one has as well is not stored again."""
    shared = shared_tensors(packed)
    return {
        name: one.nbytes - sum(one.tensors[tensor].nbytes for tensor in shared[name])
        for name, one in packed.items()
    }


def quantize_checked(
    quantizer: Quantizer, weights: Sequence[Tensor], stats: LinearStats | None
) -> tuple[QuantizedWeight, ...]:
    """The quantized weights of weights (out, in). ValueError, naming the quantizer, if it breaks its
    contract.
    """
    before = [weight._version for weight in weights]  # torch counts what is written into a tensor
    if isinstance(quantizer, GroupQuantizer):
        quantized = quantizer.quantize_group(weights, stats)
    else:
        quantized = tuple(quantizer.quantize(weight, stats) for weight in weights)
    who = f"the quantizer {quantizer.name} breaks its contract"
    if [weight._version for weight in weights] != before:
        raise ValueError(f"{who}: it wrote into the weight that it was given; work on a copy")
    for one, weight in zip(quantized, weights, strict=True):
        if not isinstance(one, QuantizedWeight):
            raise ValueError(f"{who}: it returned a {type(one).__name__}, not a weight of a format")
        if one.shape != tuple(weight.shape):
            raise ValueError(f"{who}: of a weight {tuple(weight.shape)} it made one of {one.shape}")
    return quantized


def check_bound(quantizer: Quantizer, packed: Mapping[str, PackedTensor], names: str) -> None:
    """InputError if a quantizer's bound is clearly lower than the bits that it stores for the weights of one
    input: sizes and budgets rely on the bound.
    """
    sizes = {name: math.prod(one.shape) for name, one in packed.items()}
    weights = sum(sizes.values())
    stored = 8 * sum(own_bytes(packed).values()) / weights
    promised = sum(quantizer.bits_bound(one.shape) * sizes[name] for name, one in packed.items()) / weights
    if stored > BOUND_SLACK * promised:
        raise InputError(
            f"{names}: the quantizer {quantizer.name} breaks its contract: it promised at most {promised:.3f}"
            f" bits per weight and stores {stored:.3f}; correct its bits_bound"
        )


def packed_errors(weight: Tensor, packed: PackedTensor, stats: LinearStats | None) -> dict[str, Any]:
    """`weight_error` and `layer_error` of a report: the error of the packed bytes against the weight (out,
    in), the layer's on some rows of a tall weight, because all would take longer than to quantize it.
    """
    with part("layer errors"):
        return _packed_errors(weight, packed, stats)


def _packed_errors(weight: Tensor, packed: PackedTensor, stats: LinearStats | None) -> dict[str, Any]:
    difference = FORMATS[packed.format].decode(packed).dequantize().sub_(weight)
    sums = torch.zeros(
        2, dtype=torch.float32, device=weight.device
    )  # energy of the error and of the original
    for d, w in zip(difference.split(ROWS_AT_ONCE), weight.split(ROWS_AT_ONCE), strict=True):
        sums += torch.stack([d.square().sum(), w.float().square().sum()])
    layer_error = None
    if stats is not None:
        chosen = slice(None, None, max(1, len(weight) // LAYER_ERROR_ROWS))
        both = torch.cat([difference[chosen], weight[chosen].float()])  # the moment is read once for both
        lost, whole = _energies(both, stats.hessian).split(len(both) // 2)
        layer_error = _ratio(lost.sum(), whole.sum())
    return {"weight_error": _ratio(sums[0], sums[1]), "layer_error": layer_error}


@contextmanager
def _noting() -> Iterator[list[str]]:
    """Collects the warnings that quantizers log within this context; they are still logged."""
    notes: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    logger, collector = logging.getLogger("bivlm.quantizers"), Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield notes
    finally:
        logger.removeHandler(collector)


def output_energy(weight: Tensor, hessian: Tensor) -> Tensor:
    """tr(W H Wᵀ), (): the output energy of a weight (out, in) for inputs with second moment H (in, in)."""
    return _energies(weight, hessian).sum()


def _energies(weight: Tensor, hessian: Tensor) -> Tensor:
    """w H wᵀ (out,) of every row w of a weight (out, in). H is symmetric: what is right of its diagonal
    blocks counts twice, and what is left of them is not multiplied.
    """
    columns = weight.shape[1]
    found = torch.zeros(len(weight), dtype=torch.float32, device=weight.device)
    for start in range(0, columns, ENERGY_COLUMNS):
        end = min(start + ENERGY_COLUMNS, columns)
        terms = (weight[:, start:end] @ hessian[start:end, start:]).mul_(weight[:, start:])
        found += 2.0 * terms.sum(1) - terms[:, : end - start].sum(1)
    return found


def _ratio(lost: Tensor, whole: Tensor) -> float:
    return float(lost / whole) if whole > 0 else 0.0
