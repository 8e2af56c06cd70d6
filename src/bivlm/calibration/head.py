"""The token embedding and the language head, which stand around the blocks: packed last, where a recipe says
so.

    the packed blocks' last output ─► final norm ─► what reaches the head
        ─► its second moment ─► the head's weight with feedback

The head decides every answer, and what reaches it is far from even: with the second moment of the text tokens
it loses much less of what counts. Visual tokens do not count, since nothing reads what the model would say
behind them. A head that shares the embedding's weight is packed with it, for the head: an embedding's rows
are read one by one, and their errors hardly show. An embedding of its own is packed without data. Where a
recipe propagates errors, the head makes good what it can of what all blocks together have lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from bivlm.calibration.capture import CalibrationInput, capture
from bivlm.checkpoint.output import Job
from bivlm.checkpoint.source import SourceModel
from bivlm.job.plan import LinearPlan
from bivlm.job.unit import BlockReport, LinearReport, quantize_linear
from bivlm.types import LinearStats

Finished = tuple[Sequence[nn.Module], Sequence[Mapping[int, Tensor]]]
"""The blocks of a stack, and for every sample the outputs that the model reads, by the block's index."""


def head_stats(
    source: SourceModel,
    samples: Sequence[CalibrationInput],
    finished: Sequence[Finished],
    exact: Sequence[Finished] | None = None,
) -> LinearStats:
    """What reaches the language head from the text tokens of the samples, all stacks having run: `finished`
    plays the packed ones back.

    `exact` plays back those of the full-precision model, where that ran beside: then the drift is known as
    well.
    """
    head = source.model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    moment, drift, tokens = *torch.zeros(2, head.in_features, head.in_features), 0

    def text_of(number: int, stacks: Sequence[Finished]) -> Tensor:
        """What reaches the head at a sample's text tokens, (t, d) float32."""
        played = [(blocks, outputs[number]) for blocks, outputs in stacks]
        return (
            capture(source.model, samples[number].tensors, [head], played)
            .hidden[0, ~samples[number].visual]
            .float()
        )

    for number in range(len(samples)):
        text = text_of(number, finished)
        moment.addmm_(text.T, text)
        tokens += len(text)
        if exact is not None:
            drift.addmm_((text_of(number, exact) - text).T, text)
    return LinearStats(
        {"text": moment / tokens}, {"text": tokens}, None if exact is None else {"text": drift / tokens}
    )


def finish_embedding(
    source: SourceModel,
    linear: LinearPlan,
    job: Job,
    stats: LinearStats | None,
    propagation: float,
    on_block: Callable[[BlockReport], None],
) -> None:
    """Pack and write one of them, unless an earlier run did."""
    started, resumed = time.perf_counter(), job.is_done(linear.name)
    if resumed:
        _, _, reports = job.read_block(linear.name)
        report = LinearReport(**reports[linear.name])
    else:
        assert linear.quantizer is not None
        packed, report = quantize_linear(
            source, linear, stats if linear.quantizer.needs_data else None, propagation
        )
        job.write_block(linear.name, {linear.name: packed}, {linear.name: asdict(report)})
    on_block(BlockReport(linear.name, {linear.name: report}, time.perf_counter() - started, resumed))
