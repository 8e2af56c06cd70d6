"""Sensitivities without running the quantized model: predicted from gradients, in one walk of the
full-precision model, block by block.

To second order, the loss of all targets grows by half of

    Σ_t Σ_o g_to² (ΔW x_t)_o²        g the gradient of the linear's outputs, ΔW the error of its weight

if the errors of tokens are independent of each other. With the mean over the outputs s_t in place of each
g_to² this is tr(ΔW H ΔWᵀ) Σ_t s_t, and H = Σ_t s_t x_t x_tᵀ / Σ_t s_t is the second moment with the tokens
weighed by their squared gradients. Tokens with like inputs and like gradients, as visual ones often are, have
like errors, which the loss feels together: the sum is multiplied by the linear's coherence (gradients.py).
ΔW is the error that the linear's own quantizer makes at some numbers of bits. 1 - cosine of a vector is half
of its squared change as well; of an action's value all of it counts.

Measuring (sensitivity.py) runs the model three times for each group, and needs all of it in memory; here
every weight is quantized three times. What is lost is the interplay of large errors: the measured divergence
of a group at one bit saturates, the predicted one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bivlm.calibration.gradients import Gradients
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.observing import observe
from bivlm.calibration.paused import BlockCall
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.streams import Streams, unreached
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.events import SILENT, Events
from bivlm.job.budget.sensitivity import (
    PROBES,
    Sensitivity,
    SensitivityFile,
    group_owners,
    quantized,
)
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
    crew: Crew = ALONE,
) -> list[Sensitivity]:
    """The sensitivities of every group of linears of `plan`, in nats per target (in 1 - cosine per vector
    where the plan is about embeddings, in the squared change of an action where it is about these). Blocks
    that are in `file` are not predicted again. One block is in memory at a time. The ranks of a `crew` share
    samples and groups out; `file` is that of the first.

    Raises InputError, naming the linear, if its weight cannot be quantized.
    """
    blocks = [block for block in plan.blocks if block.quantized]
    found = file.begin(blocks, crew)
    if any(block.path not in found for block in blocks):
        _Prediction(source, plan, samples, file, gradients, events, crew).run(found)
    file.keep(found, crew)
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
        crew: Crew,
    ) -> None:
        self.source, self.plan, self.samples, self.file = source, plan, samples, file
        self.gradients, self.events, self.crew = gradients, events, crew
        labels = [sample.labels for sample in samples] if plan.pooling is None else []
        if plan.actions is not None:
            labels = [one[plan.actions.among(one)] for one in labels]
        self.targets = sum(map(len, labels)) if plan.pooling is None else len(samples)
        self.share = 0.5 if plan.actions is None else 1.0

    def run(self, found: dict[str, list[Sensitivity]]) -> None:
        """Predict what is not in `found` yet; the file is written after every block."""
        blocks = {block.path: block for block in self.plan.blocks}
        missing = {block.path for block in self.plan.blocks if block.quantized} - found.keys()
        source, done, keep = self.source, 0, [1] * len(self.samples)
        with (
            source.surroundings(list(blocks)),
            Streams(source.model, self.samples, list(blocks), keep=keep, crew=self.crew) as streams,
        ):
            streams.start()
            while missing and (path := streams.next_block()) is not None:
                self.events.progress(PREDICTING, done, len(blocks))
                calls = streams.calls(path)
                with source.present(path) as module:
                    if path in missing:
                        found[path] = self._block(blocks[path], module, streams.waiting(path), calls)
                        self.file.keep(found, self.crew)
                        missing.remove(path)
                    with torch.inference_mode():
                        outputs = {number: call.run(module) for number, call in calls.items()}
                streams.go_on(outputs)
                done += 1
        if missing:
            raise unreached(min(missing))
        self.events.progress(PREDICTING, len(blocks), len(blocks))

    @torch.inference_mode()
    def _block(
        self, block: BlockPlan, module: nn.Module, numbers: Sequence[int], calls: Mapping[int, BlockCall]
    ) -> list[Sensitivity]:
        own, judge = (
            block_collector(self.source, block, self.samples, self.gradients, power=power, crew=self.crew)
            for power in (None, 1.0)
        )
        language = self.source.family.stacks[block.stack].part == "language"
        observe(
            [own, judge],
            numbers,
            lambda number: self.samples[number].visual if language else None,
            lambda number: calls[number].try_run(module),
            crew=self.crew,
        )
        quantizers = {
            linear.name: linear.quantizer for linear in block.quantized if linear.quantizer is not None
        }
        groups = own.groups()
        owners = group_owners(groups, own.linears, self.crew)
        own.bring(owners)
        judge.bring(owners)
        mine = {
            place: Sensitivity(
                tuple(group),
                PROBES,
                tuple(
                    sum(self._loss(name, quantizers[name].with_bits(bits), own, judge) for name in group)
                    for bits in PROBES
                ),
            )
            for place, group in enumerate(groups)
            if owners[group[0]] == self.crew.rank
        }
        made = {place: one for each in self.crew.gather(mine) for place, one in each.items()}
        return [made[place] for place in range(len(groups))]

    def _loss(self, name: str, quantizer: Quantizer, own: StatsCollector, judge: StatsCollector) -> float:
        """The predicted growth of the loss per target with one linear quantized."""
        squares = self.gradients.tokens.get(name)
        if squares is None:
            return 0.0
        weight = own.linears[name].weight.detach()
        lost = quantized(name, weight, quantizer, own).float() - weight.float()
        energy = float(output_energy(lost, judge.stats(name).hessian))
        one_by_one = self.share * energy * float(squares.double().sum()) / self.targets
        return one_by_one * self.gradients.coherence(name)
