"""One linear on its way into the file: read, corrected for what was lost before it, quantized, packed, and
measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bivlm.calibration.propagation import propagated
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.formats import FORMATS, PackedTensor
from bivlm.job.plan import LinearPlan
from bivlm.types import LinearStats

ROWS_AT_ONCE = 1 << 14  # rows whose errors are summed at a time


@dataclass(frozen=True)
class LinearReport:
    """What became of one linear. Errors are relative: `weight_error` ‖W-Q‖²/‖W‖², `layer_error`
    tr((W-Q)H(W-Q)ᵀ)/tr(WHWᵀ), None without data.

    `notes` is what the quantizer had to say: a damping that had to be raised, inputs that are all zero.
    """

    weights: int
    stored_bytes: int
    bits_per_weight: float
    paper_bits: float | None
    weight_error: float
    layer_error: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlockReport:
    """One finished block, for the progress bar: `error` is the weight-averaged layer error (weight error
    without data).
    """

    path: str
    linears: Mapping[str, LinearReport]
    seconds: float
    resumed: bool

    @property
    def weights(self) -> int:
        return sum(report.weights for report in self.linears.values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(report.stored_bytes for report in self.linears.values()) / max(self.weights, 1)

    @property
    def error(self) -> float:
        def of(report: LinearReport) -> float:
            return report.weight_error if report.layer_error is None else report.layer_error

        return sum(of(report) * report.weights for report in self.linears.values()) / max(self.weights, 1)


def weight_of(source: SourceModel, linear: LinearPlan) -> Tensor:
    """The weight (out, in) as the source has it."""
    return next(iter(source.read([f"{linear.name}.weight"]).values()))


def quantize_linear(
    source: SourceModel, plan: LinearPlan, stats: LinearStats | None, propagation: float = 0.0
) -> tuple[PackedTensor, LinearReport]:
    """Read one weight, correct it for what was lost before it, quantize it, pack it, and measure what the
    packed weight lost.
    """
    assert plan.quantizer is not None
    weight = weight_of(source, plan)
    try:
        with _noting() as notes:
            aim = weight
            if stats is not None and propagation:
                aim = propagated(
                    weight, stats, propagation, getattr(plan.quantizer, "modality_weight", "tokens")
                )
            quantized = plan.quantizer.quantize(aim, stats)
    except ValueError as error:
        raise InputError(f"{plan.name}: {error}") from error
    packed = quantized.encode()
    return packed, LinearReport(
        weights=weight.numel(),
        stored_bytes=packed.nbytes,
        bits_per_weight=packed.bits_per_weight(),
        paper_bits=plan.quantizer.paper_bits(quantized),
        **packed_errors(weight, packed, stats),
        notes=tuple(notes),
    )


def packed_errors(weight: Tensor, packed: PackedTensor, stats: LinearStats | None) -> dict[str, Any]:
    """`weight_error` and `layer_error` of a report: what the packed bytes lose of the weight (out, in)."""
    difference = FORMATS[packed.format].decode(packed).dequantize().sub_(weight)
    hessian = None if stats is None else stats.hessian
    sums = torch.zeros(4)  # energy lost and there, of the weight and of the layer's output
    for d, w in zip(difference.split(ROWS_AT_ONCE), weight.split(ROWS_AT_ONCE), strict=True):
        w = w.float()
        sums[:2] += torch.stack([d.square().sum(), w.square().sum()])
        if hessian is not None:
            sums[2:] += torch.stack([output_energy(d, hessian), output_energy(w, hessian)])
    return {
        "weight_error": _ratio(sums[0], sums[1]),
        "layer_error": None if hessian is None else _ratio(sums[2], sums[3]),
    }


@contextmanager
def _noting() -> Iterator[list[str]]:
    """The warnings that quantizers log meanwhile; they are still logged."""
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
    """tr(W H Wᵀ), (): what a weight (out, in) puts out for inputs of the second moment H (in, in)."""
    return ((weight @ hessian) * weight).sum()


def _ratio(lost: Tensor, whole: Tensor) -> float:
    return float(lost / whole) if whole > 0 else 0.0
