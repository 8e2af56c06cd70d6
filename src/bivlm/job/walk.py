"""The walk: stack by stack, block by block, each block quantized on what the packed blocks before it produce.

    for each stack:   capture what reaches it   (finished stacks play back their outputs)
      for each block: weights from the source → statistics → quantize → tune → write → run packed → next block
    embedding and head, where the recipe packs them (embeddings.py)

Where the recipe asks for error propagation or tuning, the full-precision model runs beside the packed one,
block by block: its inputs say what was lost before a linear (propagation.py), its outputs what a packed block
should say (tuning.py). Where no linear needs data nothing is run at all. Blocks that an earlier run finished
are read back from the output folder instead of quantized again; they compute the same numbers, so a walk that
was interrupted ends with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from bivlm.calibration.capture import BlockCall, CalibrationInput, Captured, capture
from bivlm.calibration.head import finish_embedding, head_stats
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.tuning import Tuned, tune_block
from bivlm.checkpoint.output import Job
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.formats import PackedTensor
from bivlm.job.plan import BlockPlan, LinearPlan, Plan
from bivlm.job.unit import BlockReport, LinearReport, packed_errors, quantize_linear, weight_of
from bivlm.packed.linear import replace_linear
from bivlm.types import LinearStats

OnBlock = Callable[[BlockReport], None]
Packed = Mapping[str, PackedTensor]


def walk(
    source: SourceModel, plan: Plan, job: Job, samples: Sequence[CalibrationInput], on_block: OnBlock
) -> None:
    """Quantize and write every block of `plan`, calling `on_block` after each.

    `samples` are looked at only where a quantizer needs data. Raises InputError when they are needed and
    there are none.
    """
    if plan.needs_data and not samples:
        raise InputError(
            "the recipe's quantizer needs calibration samples and there are none; give --data, or choose a"
            " preset that needs no data"
        )
    with_data = 1 + max((index for index, block in enumerate(plan.blocks) if plan.runs(block)), default=-1)
    if plan.head_needs_data:
        with_data = len(plan.blocks)
    stats = (
        _walk_with_data(source, plan, plan.blocks[:with_data], job, samples, on_block) if with_data else None
    )
    for block in plan.blocks[with_data:]:
        _finish_block(source, plan, block, job, None, on_block)
    for linear in plan.embeddings:
        finish_embedding(source, linear, job, stats, plan.propagation, on_block)


@dataclass
class _Stream:
    """What runs through the blocks of one stack, sample by sample: the calls of every block, and the hidden
    states on their way.
    """

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
    source: SourceModel,
    plan: Plan,
    blocks: Sequence[BlockPlan],
    job: Job,
    samples: Sequence[CalibrationInput],
    on_block: OnBlock,
) -> LinearStats | None:
    """Quantize and write some blocks, and say what reaches the language head where that is still to be
    packed.
    """
    inside = {name for block in plan.blocks for name in source.parameter_names(block.path)}
    head = source.family.untied_head(source.model)
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
                    capture(
                        source.model,
                        sample.tensors,
                        modules,
                        [(before, outputs[number]) for before, outputs in played],
                    )
                    for number, sample in enumerate(samples)
                ]
            )

        beside = entries(True) if plan.propagation or plan.tuning else None
        finished.append(
            (modules, *_walk_stack(source, plan, mine, job, samples, entries(False), beside, on_block))
        )
    wanted = any(
        linear.quantizer is not None and linear.quantizer.needs_data and not job.is_done(linear.name)
        for linear in plan.embeddings
    )
    played = [(modules, packed) for modules, packed, _ in finished]
    exact = [(modules, whole) for modules, _, whole in finished] if plan.propagation else None
    stats = head_stats(source, samples, played, exact) if wanted else None
    source.release(around)
    return stats


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
    """Quantize the blocks of one stack; returns, for each sample, the outputs that the model reads later:
    packed, and in full precision.

    `stream` runs through the packed blocks, `beside` through the full-precision ones.
    """
    outputs: list[dict[int, Tensor]] = [{} for _ in samples]
    exact_outputs: list[dict[int, Tensor]] = [{} for _ in samples]
    part_is_language = source.family.stacks[blocks[0].stack].part == "language"
    visual = [sample.visual if part_is_language else None for sample in samples]
    for index, block in enumerate(blocks):
        with source.present(block.path) as module:
            with torch.inference_mode():
                wanted = (block.needs_data or bool(block.quantized and plan.propagation)) and not job.is_done(
                    block.path
                )
                collector = _collect(source, block, index, module, visual, stream, beside) if wanted else None
                if beside is not None:
                    beside.hidden = beside.run(index, module)
            tune = (
                partial(_tune, source, block, plan.tuning, stream.calls(index), stream.hidden, beside)
                if plan.tuning
                else None
            )
            packed, vectors = _finish_block(source, plan, block, job, collector, on_block, tune)
            for name, tensor in packed.items():
                replace_linear(source.model, name, tensor)
            _put_vectors(source.model, vectors)
            with torch.inference_mode():
                stream.hidden = stream.run(index, source.model.get_submodule(block.path))
        if block.is_output:
            for number in range(len(samples)):
                outputs[number][index] = stream.hidden[number]
                exact_outputs[number][index] = (
                    stream.hidden[number] if beside is None else beside.hidden[number]
                )
    return outputs, exact_outputs


def _collect(
    source: SourceModel,
    block: BlockPlan,
    index: int,
    module: nn.Module,
    visual: Sequence[Tensor | None],
    stream: _Stream,
    beside: _Stream | None,
) -> StatsCollector:
    """What the block's linears receive, and how far that is from what they would in the full-precision
    model.
    """
    collector = collector_of(source, block)
    for number, (mask, call, states) in enumerate(
        zip(visual, stream.calls(index), stream.hidden, strict=True)
    ):
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
    return StatsCollector(
        {name: linear for name, linear in linears.items() if isinstance(linear, nn.Linear)}, visual_only
    )


def _tune(
    source: SourceModel,
    block: BlockPlan,
    epochs: int,
    calls: Sequence[BlockCall],
    hidden: Sequence[Tensor],
    beside: _Stream | None,
    packed: Packed,
) -> Tuned:
    """`beside` has run through the block already: its hidden states are the targets."""
    assert beside is not None
    return tune_block(
        source.model.get_submodule(block.path), block.path, packed, calls, hidden, beside.hidden, epochs
    )


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
    """Quantize one block and write it, or read it back when an earlier run wrote it: its packed linears, and
    the vectors that tuning changed.
    """
    started = time.perf_counter()
    resumed = job.is_done(block.path)
    if resumed:
        packed, vectors, reports = job.read_block(block.path)
        reports = {name: LinearReport(**report) for name, report in reports.items()}
    else:
        packed, vectors, reports = {}, {}, {}
        for linear in block.quantized:
            packed[linear.name], reports[linear.name] = quantize_linear(
                source, linear, _stats(plan, linear, collector), plan.propagation
            )
        if tune is not None and packed:
            tuned = tune(packed)
            packed = tuned.packed
            for linear in block.quantized:
                errors = packed_errors(
                    weight_of(source, linear), packed[linear.name], _stats(plan, linear, collector)
                )
                reports[linear.name] = replace(reports[linear.name], **errors)
            vectors = {
                name: vector.to(source.entries[name].dtype) for name, vector in tuned.vectors.items()
            }  # as they will be read back
        job.write_block(
            block.path, packed, {name: asdict(report) for name, report in reports.items()}, vectors
        )
    on_block(BlockReport(block.path, reports, time.perf_counter() - started, resumed))
    return packed, vectors


def _stats(plan: Plan, linear: LinearPlan, collector: StatsCollector | None) -> LinearStats | None:
    """What a linear received; None where neither its quantizer nor the plan looks at it."""
    needed = (linear.quantizer is not None and linear.quantizer.needs_data) or plan.propagation
    return collector.stats(linear.name) if collector is not None and needed else None
