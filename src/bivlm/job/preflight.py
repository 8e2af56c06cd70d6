"""A preview of a job: the quantizer of each linear, the linears that stay and why, and the expected size and
memory.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.job.kept import kept_bytes, kept_weights
from bivlm.job.plan import LinearPlan, Plan, WeightPlan
from bivlm.job.recipe import Recipe

PROCESS_BYTES = 450 << 20  # resident size of python with torch and transformers imported
BITS_TOLERANCE = 1.12  # above this ratio of a preset's bits to its target a warning is given


@dataclass(frozen=True)
class PreflightRow:
    """Linears of one part with the same treatment. `bits` is an upper bound, None if they are kept."""

    part: str
    treatment: str
    linears: int
    weights: int
    bits: float | None


@dataclass(frozen=True)
class Preflight:
    """The table and the predictions: bytes of the model's files before and after, peak resident bytes; bytes
    of the tensors that stay in full precision, whatever they are, and their share of all.

    `bits` is an upper bound per weight for all quantized linears together. The row width with the most bits
    per weight is `dearest_columns`, and these bits are `dearest_bits`.
    """

    rows: tuple[PreflightRow, ...]
    bits: float
    dearest_columns: int
    dearest_bits: float
    bytes_before: int
    bytes_after: int
    memory_bytes: int
    kept_bytes: int
    kept_share: float


def treatment_of(linear: WeightPlan) -> str:
    if linear.quantizer is None:
        return f"kept: {linear.kept_because}"
    settings = signature(type(linear.quantizer)).parameters
    changed = [
        f"{name}={getattr(linear.quantizer, name)}"
        for name, field in settings.items()
        if getattr(linear.quantizer, name) != field.default
    ]
    return " ".join([linear.quantizer.name, *changed])


def preflight(source: SourceModel, plan: Plan, budget: float | None = None) -> Preflight:
    """Predict the job of `plan`.

    With a `budget` the linears of the blocks take this many bits per weight together, regardless of their
    settings; measuring for it needs the whole model.
    """
    groups: dict[tuple[str, str], list[WeightPlan]] = defaultdict(list)
    for linear in plan.weights:
        groups[linear.place, treatment_of(linear)].append(linear)
    rows, saved = [], 0
    for (part, treatment), linears in groups.items():
        weights = sum(linear.shape[0] * linear.shape[1] for linear in linears)
        quantizer = linears[0].quantizer
        bits = None
        if quantizer is not None:
            packed = sum(
                _bits_bound(linear, budget) * linear.shape[0] * linear.shape[1] / 8 for linear in linears
            )
            saved += sum(_stored_bytes(source, linear) for linear in linears) - int(packed)
            bits = 8 * packed / weights
        rows.append(PreflightRow(part, treatment, len(linears), weights, bits))
    for kept in kept_weights(source):
        rows.append(
            PreflightRow(kept.part or "outside", f"kept: {kept.because}", kept.matrices, kept.weights, None)
        )
    before = source.file_bytes
    return Preflight(
        tuple(rows),
        *_bits(plan, budget),
        before,
        before - saved,
        _memory(source, plan, whole=budget is not None or bool(plan.distillation)),
        *kept_bytes(source, plan),
    )


def _bits_bound(linear: WeightPlan, budget: float | None) -> float:
    """The most bits per weight that a quantized weight can take."""
    assert linear.quantizer is not None
    if budget is not None and isinstance(linear, LinearPlan):
        return budget
    return linear.quantizer.bits_bound(linear.shape)


def _bits(plan: Plan, budget: float | None) -> tuple[float, int, float]:
    """Bits per weight of all quantized linears together, and the row width whose linears take the most, with
    its bits.
    """
    weights: dict[int, int] = defaultdict(int)
    bits: dict[int, float] = defaultdict(float)
    for linear in plan.weights:
        if linear.quantizer is not None:
            rows, columns = linear.shape
            weights[columns] += rows * columns
            bits[columns] += _bits_bound(linear, budget) * rows * columns
    dearest = max(weights, key=lambda columns: bits[columns] / weights[columns])
    return sum(bits.values()) / sum(weights.values()), dearest, bits[dearest] / weights[dearest]


def purpose_warning(expected: Preflight, recipe: Recipe) -> str:
    """One line when the recipe takes clearly more bits on this model than it is meant to; nothing
    otherwise.
    """
    if recipe.true_bits is None or expected.bits <= BITS_TOLERANCE * recipe.true_bits:
        return ""
    return (
        f"{recipe.name} is meant for about {recipe.true_bits:g} true bits; on this model's shapes it takes up"
        f" to {expected.bits:.2f}: rows of {expected.dearest_columns} columns pay more for their scales (up"
        f" to {expected.dearest_bits:.2f})"
    )


def _stored_bytes(source: SourceModel, linear: WeightPlan) -> int:
    entry = source.entries.get(f"{linear.name}.weight")
    return entry.nbytes if entry is not None else 0


def _memory(source: SourceModel, plan: Plan, *, whole: bool) -> int:
    """Bytes of the process, the largest block with the working memory of its largest linear and of what
    transformers' operations convert, the largest piece outside the blocks, and, with data, the second
    moments.

    `whole`: all blocks are in memory at once.
    """
    blocks = [
        sum(source.entries[name].nbytes for name in source.parameter_names(block.path))
        for block in plan.blocks
    ]
    largest = max(
        (out * width for linear in plan.weights if linear.quantizer for out, width in [linear.shape]),
        default=0,
    )
    inside = {name for block in plan.blocks for name in source.parameter_names(block.path)}
    outside = sum(entry.nbytes for name, entry in source.entries.items() if name not in inside)
    moments = 0
    if plan.needs_data:
        widths = [{linear.shape[1] for linear in unit.quantized} for unit in plan.units]
        moments = max(sum(8 * width * width for width in of_unit) for of_unit in widths)
    return (
        PROCESS_BYTES
        + (sum(blocks) if whole else max(blocks, default=0))
        + 16 * largest
        + source.conversion_bytes
        + moments
        + min(2 * outside, outside + (1 << 30))
    )


def check_disk(out: Path, expected: Preflight) -> None:
    """InputError when the disk cannot hold the result."""
    folder = next(parent for parent in [out, *out.resolve().parents] if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < expected.bytes_after:
        raise InputError(
            f"{out} needs about {expected.bytes_after / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB"
            " free; make room or choose another disk"
        )
