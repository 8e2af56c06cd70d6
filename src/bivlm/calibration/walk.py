"""The walk: stack by stack, block by block, each block quantized on what the packed blocks before it produce.

    for each stack:   capture what reaches it   (finished stacks play back their outputs)
      for each block: weights from the source → statistics → quantize → tune → write → run packed → next block

Where the recipe asks for error propagation or tuning, the full-precision model runs beside the packed one, block by block: its inputs say what was
lost before a linear (propagation.py), its outputs what a packed block should say (tuning.py). Where no linear needs data nothing is run at all.
Blocks that an earlier run finished are read back from the output folder instead of quantized again; they compute the same numbers, so a walk that was
interrupted ends with the same bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.calibration.capture import BlockCall, Captured, capture
from bivlm.calibration.propagation import propagated
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.tuning import Tuned, tune_block
from bivlm.checkpoint.job import Job
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.formats import FORMATS, PackedTensor
from bivlm.kernels.linear import replace_linear
from bivlm.plan import BlockPlan, LinearPlan, Plan
from bivlm.types import LinearStats


@dataclass(frozen=True)
class LinearReport:
    """What became of one linear. Errors are relative: `weight_error` ‖W-Q‖²/‖W‖², `layer_error` tr((W-Q)H(W-Q)ᵀ)/tr(WHWᵀ), None without data.

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
    """One finished block, for the progress bar: `error` is the weight-averaged layer error (weight error without data)."""

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


@dataclass(frozen=True)
class CalibrationInput:
    """One sample as the model takes it: its input tensors (batch of one) and the mask (t,) of the visual tokens in its prompt."""

    tensors: Mapping[str, Tensor]
    visual: Tensor


OnBlock = Callable[[BlockReport], None]
Packed = Mapping[str, PackedTensor]


def walk(source: SourceModel, plan: Plan, job: Job, samples: Sequence[CalibrationInput], on_block: OnBlock) -> None:
    """Quantize and write every block of `plan`, calling `on_block` after each.

    `samples` are looked at only where a quantizer needs data. Raises InputError when they are needed and there are none.
    """
    if plan.needs_data and not samples:
        raise InputError("the recipe's quantizer needs calibration samples and there are none; give --data, or choose a preset that needs no data")
    with_data = 1 + max((index for index, block in enumerate(plan.blocks) if plan.runs(block)), default=-1)
    if with_data:
        _walk_with_data(source, plan, plan.blocks[:with_data], job, samples, on_block)
    for block in plan.blocks[with_data:]:
        _finish_block(source, plan, block, job, None, on_block)


@dataclass
class _Stream:
    """What runs through the blocks of one stack, sample by sample: the calls of every block, and the hidden states on their way."""

    entries: Sequence[Captured]
    hidden: list[Tensor]

    @classmethod
    def of(cls, entries: Sequence[Captured]) -> _Stream:
        return cls(entries, [entry.hidden for entry in entries])

    def calls(self, index: int) -> list[BlockCall]:
        return [entry.calls[index] for entry in self.entries]

    def run(self, index: int, module: nn.Module) -> list[Tensor]:
        return [call.run(module, states) for call, states in zip(self.calls(index), self.hidden, strict=True)]


def _walk_with_data(
    source: SourceModel, plan: Plan, blocks: Sequence[BlockPlan], job: Job, samples: Sequence[CalibrationInput], on_block: OnBlock
) -> None:
    inside = {name for block in plan.blocks for name in source.parameter_names(block.path)}
    head = source.family.keep_out_of_calibration(source.model)
    around = [name for name in source.entries if name not in inside and name not in head]
    source.materialize(around)
    finished: list[tuple[Sequence[nn.Module], list[dict[int, Tensor]], list[dict[int, Tensor]]]] = []
    for stack in sorted({block.stack for block in blocks}):
        mine = [block for block in blocks if block.stack == stack]
        modules = [source.model.get_submodule(block.path) for block in mine]

        def entries(exact: bool, modules: Sequence[nn.Module] = modules) -> _Stream:
            played = [(before, whole if exact else packed) for before, packed, whole in finished]
            return _Stream.of(
                [
                    capture(source.model, sample.tensors, modules, [(before, outputs[number]) for before, outputs in played])
                    for number, sample in enumerate(samples)
                ]
            )

        beside = entries(True) if plan.propagation or plan.tuning else None
        finished.append((modules, *_walk_stack(source, plan, mine, job, samples, entries(False), beside, on_block)))
    source.release(around)


def _walk_stack(
    source: SourceModel,
    plan: Plan,
    blocks: Sequence[BlockPlan],
    job: Job,
    samples: Sequence[CalibrationInput],
    stream: _Stream,
    beside: _Stream | None,
    on_block: OnBlock,
) -> tuple[list[dict[int, Tensor]], list[dict[int, Tensor]]]:
    """Quantize the blocks of one stack; returns, for each sample, the outputs that the model reads later: packed, and in full precision.

    `stream` runs through the packed blocks, `beside` through the full-precision ones.
    """
    outputs: list[dict[int, Tensor]] = [{} for _ in samples]
    exact_outputs: list[dict[int, Tensor]] = [{} for _ in samples]
    part_is_language = source.family.stacks[blocks[0].stack].part == "language"
    visual = [sample.visual if part_is_language else None for sample in samples]
    for index, block in enumerate(blocks):
        with source.present(block.path) as module:
            with torch.inference_mode():
                wanted = (block.needs_data or bool(block.quantized and plan.propagation)) and not job.is_done(block.path)
                collector = _collect(source, block, index, module, visual, stream, beside) if wanted else None
                if beside is not None:
                    beside.hidden = beside.run(index, module)
            tune = partial(_tune, source, block, plan.tuning, stream.calls(index), stream.hidden, beside) if plan.tuning else None
            packed, vectors = _finish_block(source, plan, block, job, collector, on_block, tune)
            for name, tensor in packed.items():
                replace_linear(source.model, name, tensor)
            _put_vectors(source.model, vectors)
            with torch.inference_mode():
                stream.hidden = stream.run(index, source.model.get_submodule(block.path))
        if block.is_output:
            for number in range(len(samples)):
                outputs[number][index] = stream.hidden[number]
                exact_outputs[number][index] = stream.hidden[number] if beside is None else beside.hidden[number]
    return outputs, exact_outputs


def _collect(
    source: SourceModel, block: BlockPlan, index: int, module: nn.Module, visual: Sequence[Tensor | None], stream: _Stream, beside: _Stream | None
) -> StatsCollector:
    """What the block's linears receive, and how far that is from what they would in the full-precision model."""
    collector = collector_of(source, block)
    for number, (mask, call, states) in enumerate(zip(visual, stream.calls(index), stream.hidden, strict=True)):
        exact = None
        if beside is not None:
            with collector.received() as exact:
                beside.calls(index)[number].run(module, beside.hidden[number])
        with collector.watching(mask, exact):
            call.run(module, states)
    return collector


def collector_of(source: SourceModel, block: BlockPlan) -> StatsCollector:
    """What will watch the linears of a block that are to be quantized."""
    visual = source.family.stacks[block.stack].visual_linears
    linears = {plan.name: source.model.get_submodule(plan.name) for plan in block.quantized}
    visual_only = frozenset(name for name in linears if any(name.endswith("." + ending) for ending in visual))
    return StatsCollector({name: linear for name, linear in linears.items() if isinstance(linear, nn.Linear)}, visual_only)


def _tune(
    source: SourceModel, block: BlockPlan, epochs: int, calls: Sequence[BlockCall], hidden: Sequence[Tensor], beside: _Stream | None, packed: Packed
) -> Tuned:
    """`beside` has run through the block already: its hidden states are the targets."""
    assert beside is not None
    return tune_block(source.model.get_submodule(block.path), block.path, packed, calls, hidden, beside.hidden, epochs)


def _put_vectors(model: nn.Module, vectors: Mapping[str, Tensor]) -> None:
    """Give some parameters (by name) other values, in the dtype that they have."""
    with torch.no_grad():
        for name, value in vectors.items():
            model.get_parameter(name).copy_(value)


def _finish_block(
    source: SourceModel,
    plan: Plan,
    block: BlockPlan,
    job: Job,
    collector: StatsCollector | None,
    on_block: OnBlock,
    tune: Callable[[Packed], Tuned] | None = None,
) -> tuple[Packed, Mapping[str, Tensor]]:
    """Quantize one block and write it, or read it back when an earlier run wrote it: its packed linears, and the vectors that tuning changed."""
    started = time.perf_counter()
    resumed = job.is_done(block.path)
    if resumed:
        packed, vectors, reports = job.read_block(block.path)
        reports = {name: LinearReport(**report) for name, report in reports.items()}
    else:
        packed, vectors, reports = {}, {}, {}
        for linear in block.quantized:
            packed[linear.name], reports[linear.name] = quantize_linear(source, linear, _stats(plan, linear, collector), plan.propagation)
        if tune is not None and packed:
            tuned = tune(packed)
            packed = tuned.packed
            for linear in block.quantized:
                errors = packed_errors(_weight(source, linear), packed[linear.name], _stats(plan, linear, collector))
                reports[linear.name] = replace(reports[linear.name], **errors)
            vectors = {name: vector.to(source.entries[name].dtype) for name, vector in tuned.vectors.items()}  # as they will be read back
        job.write_block(block.path, packed, {name: asdict(report) for name, report in reports.items()}, vectors)
    on_block(BlockReport(block.path, reports, time.perf_counter() - started, resumed))
    return packed, vectors


def _stats(plan: Plan, linear: LinearPlan, collector: StatsCollector | None) -> LinearStats | None:
    """What a linear received; None where neither its quantizer nor the plan looks at it."""
    needed = (linear.quantizer is not None and linear.quantizer.needs_data) or plan.propagation
    return collector.stats(linear.name) if collector is not None and needed else None


def _weight(source: SourceModel, linear: LinearPlan) -> Tensor:
    return next(iter(source.read([f"{linear.name}.weight"]).values()))


def quantize_linear(source: SourceModel, plan: LinearPlan, stats: LinearStats | None, propagation: float = 0.0) -> tuple[PackedTensor, LinearReport]:
    """Read one weight, correct it for what was lost before it, quantize it, pack it, and measure what the packed weight lost."""
    assert plan.quantizer is not None
    weight = _weight(source, plan)
    try:
        with _noting() as notes:
            aim = weight
            if stats is not None and propagation:
                aim = propagated(weight, stats, propagation, getattr(plan.quantizer, "modality_weight", "tokens"))
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
    weight = weight.float()
    difference = weight - FORMATS[packed.format].decode(packed).dequantize()
    return {
        "weight_error": _ratio(difference.square().sum(), weight.square().sum()),
        "layer_error": None if stats is None else layer_error(weight, difference, stats.hessian),
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


def layer_error(weight: Tensor, difference: Tensor, hessian: Tensor) -> float:
    """tr(D H Dᵀ) / tr(W H Wᵀ): the share of the layer's output energy that is lost; D and W are (out, in), H is (in, in)."""
    return _ratio(((difference @ hessian) * difference).sum(), ((weight @ hessian) * weight).sum())


def _ratio(lost: Tensor, whole: Tensor) -> float:
    return float(lost / whole) if whole > 0 else 0.0
