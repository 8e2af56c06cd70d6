"""Sensitivities without running the quantized model: predicted from gradients, in one walk of the
full-precision model, block by block.

To second order, the loss of all targets grows by half of

    Σ_t Σ_o g_to² (ΔW x_t)_o²        g the gradient of the linear's outputs, ΔW the error of its weight

With the mean over the outputs s_t in place of each g_to² this is tr(ΔW H ΔWᵀ) Σ_t s_t, and H = Σ_t s_t x_t
x_tᵀ / Σ_t s_t is the second moment with the tokens weighed by their squared gradients. ΔW is the error that
the linear's own quantizer makes at some numbers of bits.

Measuring (sensitivity.py) runs the model three times for each group, and needs all of it in memory; here
every weight is quantized three times. What is lost is the interplay of large errors: the measured divergence
of a group at one bit saturates, the predicted one does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bivlm.calibration.gradients import Gradients
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.stream import Entrance, FinishedStack, Stream
from bivlm.checkpoint.source import SourceModel
from bivlm.events import SILENT, Events
from bivlm.job.budget.sensitivity import PROBES, Sensitivity, SensitivityFile, quantized
from bivlm.job.plan import BlockPlan, Plan
from bivlm.job.weighing import block_collector
from bivlm.job.weight import output_energy
from bivlm.quantizers import Quantizer

PREDICTING = "blocks predicted"  # what the progress is called


def predict(
    source: SourceModel,
    plan: Plan,
    samples: Sequence[CalibrationInput],
    file: SensitivityFile,
    gradients: Gradients,
    events: Events = SILENT,
) -> list[Sensitivity]:
    """The sensitivities of every group of linears of `plan`, in nats per target. Blocks that are in `file`
    are not predicted again. One block is in memory at a time.

    Raises InputError, naming the linear, if its weight cannot be quantized.
    """
    blocks = [block for block in plan.blocks if block.quantized]
    found = file.read()
    file.check(found, blocks)
    if any(block.path not in found for block in blocks):
        _Prediction(source, plan, samples, file, gradients, events).run(found)
    file.write(found)
    return [group for block in blocks for group in found[block.path]]


class _Prediction:
    """One walk of the full-precision model."""

    def __init__(
        self,
        source: SourceModel,
        plan: Plan,
        samples: Sequence[CalibrationInput],
        file: SensitivityFile,
        gradients: Gradients,
        events: Events,
    ) -> None:
        self.source, self.plan, self.samples, self.file = source, plan, samples, file
        self.gradients, self.events = gradients, events
        self.targets = sum(len(sample.labels) for sample in samples)

    def run(self, found: dict[str, list[Sensitivity]]) -> None:
        """Predict what is not in `found` yet; the file is written after every block."""
        entrance, finished = Entrance(self.source.model, self.samples), list[FinishedStack]()
        paths = [block.path for block in self.plan.blocks]
        done = 0
        for number in sorted({block.stack for block in self.plan.blocks}):
            stack = [block for block in self.plan.blocks if block.stack == number]
            modules = [self.source.model.get_submodule(block.path) for block in stack]
            with self.source.surroundings(paths):
                stream = entrance.enter(modules, finished)
            record = FinishedStack(modules, len(self.samples))
            for index, block in enumerate(stack):
                self.events.progress(PREDICTING, done, len(paths))
                with self.source.present(block.path) as module:
                    if block.quantized and block.path not in found:
                        found[block.path] = self._block(block, module, stream, index)
                        self.file.write(found)
                    stream.advance(index, module)
                if block.is_output:
                    record.record(index, stream, None)
                done += 1
            finished.append(record)
        self.events.progress(PREDICTING, done, len(paths))

    @torch.inference_mode()
    def _block(self, block: BlockPlan, module: nn.Module, stream: Stream, index: int) -> list[Sensitivity]:
        own = block_collector(self.source, block, self.samples, self.gradients)
        judge = block_collector(self.source, block, self.samples, self.gradients, power=1.0)
        language = self.source.family.stacks[block.stack].part == "language"
        for number, (call, hidden) in enumerate(zip(stream.calls(index), stream.hidden, strict=True)):
            visual = self.samples[number].visual if language else None
            with own.watching(visual, number=number), judge.watching(visual, number=number):
                call.run(module, hidden)
        quantizers = {
            linear.name: linear.quantizer for linear in block.quantized if linear.quantizer is not None
        }
        return [
            Sensitivity(
                tuple(group),
                PROBES,
                tuple(
                    sum(self._loss(name, quantizers[name].with_bits(bits), own, judge) for name in group)
                    for bits in PROBES
                ),
            )
            for group in own.groups()
        ]

    def _loss(self, name: str, quantizer: Quantizer, own: StatsCollector, judge: StatsCollector) -> float:
        """The predicted growth of the loss per target with one linear quantized."""
        squares = self.gradients.tokens.get(name)
        if squares is None:
            return 0.0
        weight = own.linears[name].weight.detach()
        lost = quantized(name, weight, quantizer, own).float() - weight.float()
        energy = float(output_energy(lost, judge.stats(name).hessian))
        return 0.5 * energy * float(squares.double().sum()) / self.targets
