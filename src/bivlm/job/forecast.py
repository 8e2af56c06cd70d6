"""How long a job will take: what it has to compute, counted from its plan and the tokens of its samples, over
the speed of this machine.

    plan, samples ─► passes of blocks, sums of moments  operations ─► operations per second  ┐
    files         ─► how often they are read            bytes      ─► bytes per second       │
    plan          ─► weights to quantize                shapes     ─► a cost for each method ┴─► seconds

Which linears share an input, and how many tokens reach an expert, is found while the job runs; here the usual
is taken.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.calibration import distillation, tuning
from bivlm.calibration.inputs import MOST_TOKENS, CalibrationInput, calibration_inputs
from bivlm.calibration.moments import pieces
from bivlm.checkpoint.groups import layer_of_experts
from bivlm.checkpoint.source import SourceModel
from bivlm.families.pixels import UNBOUNDED, PixelBounds
from bivlm.job.budget.sensitivity import PROBE_SAMPLES, PROBES
from bivlm.job.cost import cost_of
from bivlm.job.plan import BlockPlan, LinearPlan, Plan
from bivlm.job.speed import Speed, speed_of
from bivlm.job.weighing import LEAST_TOKENS, differentiated, looks_at_gradients
from bivlm.quantizers import Quantizer
from bivlm.types import PARTS, Sample

LOOKED_AT = 4  # samples whose tokens are counted, evenly spread
BACKWARD = 3.0  # a forward pass with its backward pass, in forward passes
DIFFERENTIATED = 4.0  # a block again, the gradients of its inputs, and what hooks make of them
EFFICIENCY = 0.6  # of a block's passes, which do not only multiply
CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "num_selected_experts")  # in configs
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Load:
    """The samples of a job: how many; the mean number of tokens that meet the blocks of each part, and of
    targets; whether some have no answer; on how many of them gradients would be measured.
    """

    samples: int
    tokens: Mapping[str, float]
    targets: float
    unanswered: bool
    gradients: int


def load_of(
    source: SourceModel,
    plan: Plan,
    samples: Sequence[Sample | CalibrationInput],
    pixels: PixelBounds = UNBOUNDED,
) -> Load:
    """The load of the samples, as a few of them tell. Raises InputError as `calibration_inputs` does."""
    count = min(LOOKED_AT, len(samples))
    if not count:
        return Load(0, dict.fromkeys(PARTS, 0.0), 0.0, unanswered=False, gradients=0)
    few = calibration_inputs(source, [samples[len(samples) * n // count] for n in range(count)], pixels)
    tokens = {
        "language": sum(one.visual.numel() for one in few) / count,
        "projector": sum(int(one.visual.sum()) for one in few) / count,
        "vision": sum(_patches(source.config, one.tensors) for one in few) / count,
    }
    return Load(
        len(samples),
        tokens,
        sum(int(one.targets.sum()) or MOST_TOKENS for one in few) / count,
        any(one.target_mask is not None and not one.target_mask.any() for one in few),
        len(differentiated(plan, [few[number % count] for number in range(len(samples))])),
    )


def _patches(config: PretrainedConfig, tensors: Mapping[str, Tensor]) -> float:
    """How many patches the pixels of an input are, whatever their layout."""
    vision: Any = getattr(config, "vision_config", None) or config
    side = getattr(vision, "patch_size", 16)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    frames = getattr(vision, "temporal_patch_size", 1)
    pixels = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    return pixels / (3 * height * width * frames)


def forecast(source: SourceModel, plan: Plan, load: Load, *, budget: bool = False) -> dict[str, float]:
    """Expected seconds of the job, by part. With a `budget` the effect of the linears is measured first, or
    predicted, as the plan says.
    """
    work = _Work(source, plan, load)
    found = {"quantizing": work.quantizing, "reading and writing": work.files(budget=budget)}
    if plan.needs_data:
        found["calibration"] = work.calibration()
    if load.unanswered and (load.gradients or plan.distillation):
        found["own answers"] = (load.samples if plan.distillation else load.gradients) * work.model
    if load.gradients:
        found["gradients"] = work.gradients()
    if budget:
        found["budget"] = work.budget()
    if plan.tuning:
        found["tuning blocks"] = work.block_tuning()
    if plan.distillation:
        found["tuning the model"] = work.model_tuning()
    return found


class _Work:
    """Sums over the blocks of a plan, in seconds; `quantizing` is that of all weights, `model` a pass of one
    sample through the whole model.
    """

    def __init__(self, source: SourceModel, plan: Plan, load: Load) -> None:
        self.source, self.plan, self.load, self.speed = source, plan, load, speed_of(source.dtype)
        of_tuning = plan.tuning > 0 and source.dtype != torch.float32
        self.precise = speed_of(torch.float32) if of_tuning else self.speed
        self.share = share_of_experts(source.config)
        self.running = [block for block in plan.blocks if plan.runs(block)]
        self.quantizing = self._quantizing()
        self.model = sum(map(self._pass, plan.blocks)) + load.targets * self._head()

    def _quantizing(self) -> float:
        """All weights: each is corrected for earlier errors, quantized, packed, judged, and decoded."""
        shapes: dict[Quantizer, list[tuple[int, int]]] = defaultdict(list)
        for weight in self.plan.weights:
            if weight.quantizer is not None:
                shapes[weight.quantizer].append(weight.shape)
        total = 0.0
        for quantizer, own in shapes.items():
            widths = Counter[int]()
            for out, columns in own:
                widths[columns] += out * columns
            total += sum(map(cost_of(quantizer, widths, self.plan.propagation).seconds, own))
        return total

    def files(self, *, budget: bool) -> float:
        """The files are read for their digests and to be packed or copied, and once more by every pass that
        brings the blocks into memory.
        """
        gradients = 2 * (self.load.gradients > 0)
        times = 2 + self.plan.needs_data * (1 + self.plan.runs_beside) + gradients + budget
        return times * self.source.file_bytes / self.speed.reading

    def calibration(self) -> float:
        """Every block runs twice, and twice more where the full-precision model runs as well, with which the
        inputs are compared.
        """
        beside = 1 + self.plan.runs_beside
        return self.load.samples * sum(
            2 * beside * self._pass(one) + self._moments(one, compared=self.plan.runs_beside)
            for one in self.running
        )

    def gradients(self) -> float:
        """The model forward, and back to the first block of which gradients are measured."""
        measured = [looks_at_gradients(self.plan, block) for block in self.plan.blocks]
        back = self.plan.blocks[measured.index(True) :] if True in measured else ()
        passes = sum(DIFFERENTIATED * self._products(one, self.speed) + self.speed.back for one in back)
        return self.load.gradients * (self.model + passes + sum(map(self._fishers, back)))

    def budget(self) -> float:
        """Every weight at each of PROBES; by prediction two passes of the blocks, and the moments that judge
        every linear by its own gradients besides those of its quantizer; by measurement one pass, and one of
        the whole model for each group and probe.
        """
        measured = self.plan.budget_from == "answers"
        passes = sum(
            (1 if measured else 2) * self._pass(one)
            + self._moments(one)
            + (0.0 if measured else self._squares(one, one.quantized))
            for one in self.running
        )
        seconds = self.load.samples * passes + len(PROBES) * self.quantizing
        if measured:
            groups = sum(len(inputs_of(block)) for block in self.running)
            seconds += groups * len(PROBES) * min(PROBE_SAMPLES, self.load.samples) * self.model
        return seconds

    def block_tuning(self) -> float:
        """In float32, whatever the model's dtype."""
        judged, speed = 1 / tuning.HELD_OUT, self.precise
        steps = sum(BACKWARD * self._products(one, speed) + speed.back for one in self.running)
        passes = sum(self._products(one, speed) + speed.call for one in self.running)
        return self.load.samples * self.plan.tuning * ((1 - judged) * steps + judged * passes)

    def model_tuning(self) -> float:
        """The predictions of the full-precision model, the steps, and what judges them."""
        judged = self.load.samples / distillation.HELD_OUT
        trained = self.plan.distillation * (self.load.samples - judged)
        least = distillation.LEAST_STEPS * min(distillation.MOST_SAMPLES, self.load.samples)
        judging = (distillation.JUDGED + 1) * judged
        return self.model * (self.load.samples + BACKWARD * max(trained, least) + judging)

    def _pass(self, block: BlockPlan) -> float:
        """One sample through a block."""
        return self._products(block, self.speed) + self.speed.call

    def _products(self, block: BlockPlan, speed: Speed) -> float:
        """What one sample multiplies in a block."""
        tokens, widths = self._tokens(block), [linear.shape[1] for linear in block.linears]
        weights = sum(math.prod(linear.shape) * self._reached(linear) for linear in block.linears)
        attention = 4 * tokens**2 * min(widths) if len(widths) > 2 else 0.0
        return (2 * tokens * weights + attention) / speed.passes / EFFICIENCY

    def _moments(self, block: BlockPlan, *, compared: bool = False) -> float:
        """The second moments of one sample's inputs of a block, of every linear whose tokens are weighed by
        gradients and of every input that others share; and, `compared` with the full-precision model, their
        residuals.
        """
        weighed = [one for one in block.quantized if self._is_weighed(one)]
        alone = {one.name for one in weighed}
        shared = [one for one in inputs_of(block) if one.name not in alone]
        return self._squares(block, weighed + shared, compared=compared)

    def _is_weighed(self, linear: LinearPlan) -> bool:
        """Whether the tokens of a linear are likely to be weighed by their gradients."""
        wanted = linear.quantizer is not None and linear.quantizer.gradient_power > 0
        tokens = self.load.samples * self.load.tokens.get(linear.part or "", 0.0)
        return self.load.gradients > 0 and wanted and tokens >= LEAST_TOKENS * linear.shape[1]

    def _squares(self, block: BlockPlan, linears: Sequence[LinearPlan], *, compared: bool = False) -> float:
        """Sums of products of one sample's inputs of some linears of a block."""
        total = 0.0
        for linear in linears:
            width = linear.shape[1]
            summed = sum(
                (rows.stop - rows.start) * (own.stop - own.start) for rows, own in pieces(width, True)
            )
            total += (summed + compared * width**2) * self._reached(linear)
        return 2 * self._tokens(block) * total / self.speed.moments

    def _fishers(self, block: BlockPlan) -> float:
        """The gradients of one sample of the weights of a block whose quantizers ask for them."""
        asking = [one for one in block.quantized if one.quantizer is not None and one.quantizer.needs_fisher]
        weights = sum(math.prod(linear.shape) * self._reached(linear) for linear in asking)
        return 2 * self._tokens(block) * weights / self.speed.passes / EFFICIENCY

    def _tokens(self, block: BlockPlan) -> float:
        return next((self.load.tokens[one.part] for one in block.linears if one.part), 0.0)

    def _reached(self, linear: LinearPlan) -> float:
        """The share of the tokens that meet a linear."""
        return 1.0 if layer_of_experts(linear.name) is None else self.share

    def _head(self) -> float:
        """The logits of one token; a vision-only model has none."""
        text: Any = self.source.config.get_text_config()
        width, words = (getattr(text, name, 0) for name in ("hidden_size", "vocab_size"))
        return 2 * width * words / self.speed.passes


def share_of_experts(config: PretrainedConfig) -> float:
    """The share of a layer's experts that a token meets; 1 for a model without them."""
    text = config.get_text_config()
    chosen, experts = (
        next((value for name in names if isinstance(value := getattr(text, name, None), int)), 1)
        for names in (CHOSEN, EXPERTS)
    )
    return min(1.0, chosen / experts) if experts > 1 else 1.0


def inputs_of(block: BlockPlan) -> list[LinearPlan]:
    """One linear for each input of a block that is likely to be an input of its own: of the linears below one
    module that are equally wide, those of queries, keys and values share one, and so do those of gate and up;
    the attention's output and what follows a fused query, key and value have their own.
    """
    together: dict[tuple[str, int], list[LinearPlan]] = defaultdict(list)
    for linear in block.quantized:
        together[linear.name.rpartition(".")[0], linear.shape[1]].append(linear)
    found = []
    for linears in together.values():
        unlike = len(linears) == 2 and linears[0].shape != linears[1].shape
        found += [linears[0], linears[-1]] if unlike or len(linears) > 3 else [linears[0]]
    return found
