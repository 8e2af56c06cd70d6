"""The token embedding and the language head, which stand around the blocks: packed last, where a recipe says so.

    the packed blocks' last output ─► final norm ─► what reaches the head ─► its second moment ─► the head's weight with feedback

The head decides every answer, and what reaches it is far from even: with the second moment of the text tokens it loses several times less
(docs/trellis.md has the figures). Visual tokens do not count, since nothing reads what the model would say behind them. A head that shares the
embedding's weight is packed with it, for the head: an embedding's rows are read one by one, and their errors hardly show. An embedding of its own is
packed without data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from bivlm.calibration.capture import CalibrationInput, capture
from bivlm.calibration.linears import BlockReport, LinearReport, quantize_linear
from bivlm.checkpoint.job import Job
from bivlm.checkpoint.source import SourceModel
from bivlm.plan import LinearPlan
from bivlm.types import LinearStats

Finished = tuple[Sequence[nn.Module], Sequence[Mapping[int, Tensor]]]
"""The blocks of a stack, and for every sample the outputs that the model reads, by the block's index."""


def head_stats(source: SourceModel, samples: Sequence[CalibrationInput], finished: Sequence[Finished]) -> LinearStats:
    """What reaches the language head from the text tokens of the samples, all stacks having run: `finished` plays them back."""
    head = source.model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    total, tokens = torch.zeros(head.in_features, head.in_features), 0
    for number, sample in enumerate(samples):
        played = [(blocks, outputs[number]) for blocks, outputs in finished]
        reached = capture(source.model, sample.tensors, [head], played).hidden
        text = reached[0, ~sample.visual].float()
        total.addmm_(text.T, text)
        tokens += len(text)
    return LinearStats({"text": total / tokens}, {"text": tokens})


def finish_embedding(source: SourceModel, linear: LinearPlan, job: Job, stats: LinearStats | None, on_block: Callable[[BlockReport], None]) -> None:
    """Pack and write one of them, unless an earlier run did."""
    started, resumed = time.perf_counter(), job.is_done(linear.name)
    if resumed:
        _, _, reports = job.read_block(linear.name)
        report = LinearReport(**reports[linear.name])
    else:
        assert linear.quantizer is not None
        packed, report = quantize_linear(source, linear, stats if linear.quantizer.needs_data else None)
        job.write_block(linear.name, {linear.name: packed}, {linear.name: asdict(report)})
    on_block(BlockReport(linear.name, {linear.name: report}, time.perf_counter() - started, resumed))
