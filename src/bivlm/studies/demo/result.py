"""What the demo finds: a row for every model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoRow:
    """One model of the demo. Bits are those of the packed linears, bytes those of the whole folder, seconds
    those of packing and of evaluating.
    """

    name: str
    parts: str
    accuracy: float
    interval: tuple[float, float]
    kl: float
    top1_agreement: float
    bits_per_weight: float
    paper_bits: float | None
    folder_bytes: int
    quantize_seconds: float
    eval_seconds: float
