"""Sensitivities: how far the model's answers move when one group of linears alone is quantized, at a few
numbers of bits.

Linears that share an input (q, k and v; gate and up) are a group, and so is a projection of all experts of a
layer: each alone would be thousands of measurements. The rest of the model stays in full precision. The
measure is the KL divergence of the next tokens of the text from those of the full-precision model; the token
after the prompt counts as much as all others together. For an embedding model it is 1 - cosine between the
vectors of the prompts; for one that says actions the mean squared change of their values. Between the
measured points the logarithm of the divergence is interpolated linearly. Beyond the last point it falls by
2^(-2 bits), like the error of any good quantizer.

This needs the full-precision model in memory. Finished blocks are kept in a file, so an interrupted
measurement continues.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.actions import ActionTokens
from bivlm.calibration.gradients import Gradients
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.observing import observe
from bivlm.calibration.stats import StatsCollector
from bivlm.calibration.streams import unreached
from bivlm.checkpoint.durable import write_text
from bivlm.checkpoint.groups import layer_of_experts
from bivlm.checkpoint.shards import read_json
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.families.final_states import final_states
from bivlm.job.plan import BlockPlan, Plan
from bivlm.job.weighing import block_collector
from bivlm.kl import kl_divergence
from bivlm.pooling import Pooling, drift, pool
from bivlm.quantizers import Quantizer

PROBES = (1.0, 2.0, 3.0)  # bits at which a group is measured
PROBE_SAMPLES = 16  # calibration samples of a measurement
MEASURING = "blocks measured"  # what the progress of a measurement is called
SMALLEST = 1e-9  # nats: a smaller divergence is taken as this


@dataclass(frozen=True)
class Sensitivity:
    """The effect of a group of linears on the answers: divergences (nats per token) at some bits,
    ascending.
    """

    linears: tuple[str, ...]
    bits: tuple[float, ...]
    divergences: tuple[float, ...]

    def at(self, bits: float) -> float:
        """The divergence at any number of bits."""
        falling = [max(self.divergences[i:]) for i in range(len(self.bits))]
        logs = [math.log(max(value, SMALLEST)) for value in falling]
        if bits >= self.bits[-1]:
            return math.exp(logs[-1] - 2 * math.log(2) * (bits - self.bits[-1]))
        upper = max(1, next(i for i, place in enumerate(self.bits) if bits < place))
        left, right = self.bits[upper - 1], self.bits[upper]
        return math.exp(logs[upper] + (logs[upper - 1] - logs[upper]) * (right - bits) / (right - left))


def measure(
    source: SourceModel,
    plan: Plan,
    samples: Sequence[CalibrationInput],
    file: SensitivityFile,
    events: Events = SILENT,
    gradients: Gradients | None = None,
    crew: Crew = ALONE,
) -> list[Sensitivity]:
    """The sensitivities of every group of linears of `plan`. Those that are not in `file` are measured and
    added to it block by block. The ranks of a `crew` share the samples out; `file` is that of the first.

    If anything has to be measured, this needs the whole model in memory. Raises InputError if the file
    belongs to another model, or if the logits are not finite.
    """
    blocks = [block for block in plan.blocks if block.quantized]
    found = file.begin(blocks, crew)
    if any(block.path not in found for block in blocks):
        with source.surroundings((), head=True):
            probe = _Probe(source, samples, gradients, crew, plan.pooling, plan.actions)
            for number, block in enumerate(blocks):
                events.progress(MEASURING, number, len(blocks))
                if block.path not in found:
                    found[block.path] = probe.block(block)
                    file.keep(found, crew)
    events.progress(MEASURING, len(blocks), len(blocks))
    file.keep(found, crew)
    return [group for block in blocks for group in found[block.path]]


def probe_samples(samples: Sequence[CalibrationInput]) -> list[int]:
    """The numbers of the samples on which a budget is measured: the first PROBE_SAMPLES; if some samples have
    images and others have none, the first of both kinds, in their proportion, at least one of each.
    """
    count = min(PROBE_SAMPLES, len(samples))
    seeing = [number for number, sample in enumerate(samples) if sample.has_image]
    blind = [number for number, sample in enumerate(samples) if not sample.has_image]
    if not seeing or not blind:
        return list(range(count))
    share = min(max(round(count * len(seeing) / len(samples)), 1), count - 1)
    return sorted(seeing[:share] + blind[: count - share])


class _Probe:
    """The full-precision model, whole in memory, and what it says about the samples of a measurement."""

    def __init__(
        self,
        source: SourceModel,
        samples: Sequence[CalibrationInput],
        gradients: Gradients | None,
        crew: Crew,
        pooling: Pooling | None = None,
        actions: ActionTokens | None = None,
    ) -> None:
        self.source, self.samples, self.gradients, self.crew = source, samples, gradients, crew
        self.pooling: Pooling | None = pooling
        self.actions = actions
        self.numbers = probe_samples(samples)
        self.own = [place for place in range(len(self.numbers)) if crew.owns(place)]
        self.reference = self._said()

    def block(self, block: BlockPlan) -> list[Sensitivity]:
        """The sensitivities of one block's groups."""
        stack = self.source.family.stacks[block.stack]
        quantizers = {
            linear.name: linear.quantizer for linear in block.quantized if linear.quantizer is not None
        }
        collector = block_collector(self.source, block, self.samples, self.gradients, crew=self.crew)

        def run(number: int) -> None:
            with torch.inference_mode():
                self.source.model(**self.samples[number].tensors, use_cache=False)

        observe(
            [collector],
            self.numbers,
            lambda number: self.samples[number].visual if stack.part == "language" else None,
            run,
            crew=self.crew,
        )
        if not collector.groups():
            raise unreached(block.path)
        return probe_block(collector.linears, quantizers, collector, self._divergence, self.crew)

    def _divergence(self) -> float:
        """The mean over all samples, each measured by one rank."""
        own = [
            self._distance(expected, given)
            for expected, given in zip(self.reference, self._said(), strict=True)
        ]
        each = self.crew.gather(own)
        count = len(self.numbers)
        return sum(each[self.crew.owner(place)][place // self.crew.size] for place in range(count)) / count

    def _distance(self, expected: Tensor, given: Tensor) -> float:
        """How far what one sample gives is from full precision's."""
        if self.pooling is not None:
            return float(drift(given, expected)[0])
        if self.actions is not None:
            return float((given - expected).double().square().mean())
        return divergence_of([expected], [given])

    def _said(self) -> list[Tensor]:
        """Of this rank's samples the logits at the text tokens, or the vectors (1, d), or the values (n,) of
        the actions.
        """
        inputs = [self.samples[self.numbers[place]] for place in self.own]
        if self.actions is not None:
            return [values_of(self.source.model, one, self.actions) for one in inputs]
        if self.pooling is not None:
            return [_vector(self.source.model, one.tensors, self.pooling) for one in inputs]
        return text_logits(self.source.model, [one.tensors for one in inputs], [one.visual for one in inputs])


@torch.inference_mode()
def values_of(model: Any, sample: CalibrationInput, actions: ActionTokens) -> Tensor:
    """The values (n,) float32 of a sample's actions, each after those that its targets say."""
    places = sample.targets.nonzero()[:, 0][actions.among(sample.labels)]
    return actions.values(model(**sample.tensors, use_cache=False).logits[0, places - 1])


@torch.inference_mode()
def _vector(model: nn.Module, tensors: Mapping[str, Tensor], pooling: Pooling) -> Tensor:
    """The vector (1, d) of one prompt."""
    return pool(final_states(model, tensors), tensors["attention_mask"], pooling)


def probe_block(
    linears: Mapping[str, nn.Linear],
    quantizers: Mapping[str, Quantizer],
    collector: StatsCollector,
    divergence: Callable[[], float],
    crew: Crew = ALONE,
) -> list[Sensitivity]:
    """Measure every group of a block whose linears `collector` has watched. `divergence` says how far the
    model is from full precision now. In a `crew` every group is quantized by one rank.

    InputError, naming the linear, if its weight cannot be quantized or the logits are not finite.
    """
    groups = together(collector.groups())
    owners = group_owners(groups, linears, crew)
    collector.bring(owners)
    found = []
    for group in groups:
        measured, owner = [], owners[group[0]]
        for bits in PROBES:
            originals = {name: linears[name].weight for name in group}
            try:
                made: dict[str, Tensor] = {}
                if owner == crew.rank:
                    for name, original in originals.items():
                        quantizer = quantizers[name].with_bits(bits)
                        made[name] = quantized(name, original.data, quantizer, collector)
                for name, weight in crew.broadcast(made, owner).items():
                    linears[name].weight = nn.Parameter(weight, requires_grad=False)
                measured.append(divergence())
            finally:
                for name, original in originals.items():
                    linears[name].weight = original
        if not all(map(math.isfinite, measured)):
            raise InputError(
                f"{group[0]}: with it quantized the model's logits are NaN or infinite on the calibration"
                " data; calibrate on other data"
            )
        found.append(Sensitivity(tuple(group), PROBES, tuple(measured)))
    return found


def together(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """The groups, with those of the same projection of a layer's experts as one."""
    found: dict[object, list[str]] = {}
    for group in groups:
        layer = layer_of_experts(group[0])
        key = group[0] if layer is None else (layer, group[0].rpartition(".")[2])
        found.setdefault(key, []).extend(group)
    return list(found.values())


def group_owners(
    groups: Sequence[Sequence[str]], linears: Mapping[str, nn.Linear], crew: Crew
) -> dict[str, int]:
    """The rank that quantizes each linear: that of its group, dealt out by the number of its weights."""
    ranks = crew.deal([sum(linears[name].weight.numel() for name in group) for group in groups])
    return {name: rank for group, rank in zip(groups, ranks, strict=True) for name in group}


def quantized(name: str, weight: Tensor, quantizer: Quantizer, collector: StatsCollector) -> Tensor:
    """The quantized weight (out, in), dequantized, in the weight's dtype."""
    try:
        return quantizer.quantize(weight, collector.stats(name)).dequantize().to(weight.dtype)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


@dataclass(frozen=True)
class SensitivityFile:
    """Sensitivities on the disk, block by block: finished blocks are not measured again.

    `path` is the job's own file. `kept` is a file of the user, for reuse in another job on the same model: it
    is read if the job has no file yet, and written together with the job's file.
    """

    path: Path
    kept: Path | None = None

    def begin(self, blocks: Sequence[BlockPlan], crew: Crew) -> dict[str, list[Sensitivity]]:
        """What has been measured, checked against the plan, on all ranks."""
        found: dict[str, list[Sensitivity]] = {}
        if crew.is_first:
            found = self.read()
            self.check(found, blocks)
        return crew.broadcast(found)

    def keep(self, blocks: Mapping[str, Sequence[Sensitivity]], crew: Crew) -> None:
        """Write them, on the first rank."""
        if crew.is_first:
            self.write(blocks)

    def read(self) -> dict[str, list[Sensitivity]]:
        """The measured sensitivities, by the path of the block. InputError for a file with other contents,
        and for a kept file that differs from the one with which this job began.
        """
        try:
            own = _read(self.path)
        except InputError:
            own = {}  # damaged: it is measured again
        kept = {} if self.kept is None else _read(self.kept)
        if any(own[block] != kept[block] for block in own.keys() & kept.keys()):
            raise InputError(
                f"{self.kept} holds other sensitivities than this unfinished job began with; give the file"
                " that it began with, or another OUT"
            )
        return kept | own

    def write(self, blocks: Mapping[str, Sequence[Sensitivity]]) -> None:
        text = json.dumps({name: [asdict(one) for one in found] for name, found in blocks.items()}, indent=1)
        for path in filter(None, (self.path, self.kept)):
            write_text(path, text + "\n")

    def check(self, found: Mapping[str, Sequence[Sensitivity]], blocks: Sequence[BlockPlan]) -> None:
        """InputError if the file was measured on other linears than those of the plan."""
        for block in blocks:
            measured = {name for group in found.get(block.path, ()) for name in group.linears}
            planned = {linear.name for linear in block.quantized}
            if block.path in found and not measured <= planned:
                raise InputError(
                    f"{self.kept or self.path} holds sensitivities of {sorted(measured - planned)[0]}, which"
                    " this job does not quantize; give the file of the same model and parts, or leave it out"
                )


def _read(path: Path) -> dict[str, list[Sensitivity]]:
    if not path.exists():
        return {}
    try:
        return {
            block: [
                Sensitivity(tuple(one["linears"]), tuple(one["bits"]), tuple(one["divergences"]))
                for one in found
            ]
            for block, found in read_json(path).items()
        }
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} holds no sensitivities; give a file that `--sensitivities` wrote"
        ) from error


def divergence_of(reference: Sequence[Tensor], logits: Sequence[Tensor], last: float = 0.5) -> float:
    """Mean KL divergence (nats) of the raw logits (t, vocabulary) of some prompts from the reference's;
    `last` is the share of each last row.
    """
    total = 0.0
    for expected, given in zip(reference, logits, strict=True):
        rows = kl_divergence(expected, given)
        total += float((1 - last) * rows.mean() + last * rows[-1])
    return total / len(reference)


@torch.inference_mode()
def text_logits(
    model: nn.Module, inputs: Sequence[Mapping[str, Tensor]], visual: Sequence[Tensor]
) -> list[Tensor]:
    """The logits (t, vocabulary) at the text tokens of each prompt, where `visual` (t,) is False."""
    return [
        model(**tensors, use_cache=False).logits[0, ~mask]
        for tensors, mask in zip(inputs, visual, strict=True)
    ]
