"""How long a job will take: what it has to compute, counted from its plan and the tokens of its samples, over
the speed of this machine.

    plan, samples ─► passes of blocks, sums of moments  operations ─► operations per second  ┐
    plan          ─► weights to quantize                shapes     ─► a cost for each method ┴─► seconds

Which linears share an input, and how many tokens reach an expert, is found while the job runs; here the usual
is taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.calibration import distillation, tuning
from bivlm.calibration.inputs import MOST_TOKENS, CalibrationInput, calibration_inputs
from bivlm.checkpoint.groups import layer_of_experts
from bivlm.checkpoint.source import SourceModel
from bivlm.families.pixels import UNBOUNDED, PixelBounds
from bivlm.job.budget.sensitivity import PROBE_SAMPLES, PROBES
from bivlm.job.plan import BlockPlan, LinearPlan, Plan
from bivlm.job.speed import Cost, cost_of, speed_of
from bivlm.job.weighing import looks_at_gradients, wants_gradients
from bivlm.quantizers import Quantizer
from bivlm.types import PARTS, Sample

LOOKED_AT = 4  # samples whose tokens are counted, evenly spread
BACKWARD = 3.0  # a forward pass with its backward pass, in forward passes
DIFFERENTIATED = 2.0  # a block again, and the gradients of its inputs
EFFICIENCY = 0.6  # of a block's passes, which do not only multiply
CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "num_selected_experts")  # in configs
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Load:
    """The samples of a job: how many; the mean number of tokens that meet the blocks of each part, and of
    targets; whether some have no answer; whether gradients on them would be measured.
    """

    samples: int
    tokens: Mapping[str, float]
    targets: float
    unanswered: bool
    gradients: bool


def load_of(
    source: SourceModel,
    plan: Plan,
    samples: Sequence[Sample | CalibrationInput],
    pixels: PixelBounds = UNBOUNDED,
) -> Load:
    """The load of the samples, as a few of them tell. Raises InputError as `calibration_inputs` does."""
    count = min(LOOKED_AT, len(samples))
    if not count:
        return Load(0, dict.fromkeys(PARTS, 0.0), 0.0, unanswered=False, gradients=False)
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
        wants_gradients(plan, [few[number % count] for number in range(len(samples))]),
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
    found = {"quantizing": work.quantizing()}
    if plan.needs_data:
        found["calibration"] = work.calibration()
    if load.unanswered and (load.gradients or plan.distillation):
        found["own answers"] = load.samples * work.model
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
    """Sums over the blocks of a plan, in seconds; `model` is a pass of one sample through the whole model."""

    def __init__(self, source: SourceModel, plan: Plan, load: Load) -> None:
        self.plan, self.load, self.speed = plan, load, speed_of(source.dtype)
        self.share = share_of_experts(source.config)
        self.running = [block for block in plan.blocks if plan.runs(block)]
        self.model = sum(map(self._pass, plan.blocks)) + load.targets * self._head(source)

    def quantizing(self) -> float:
        """All weights."""
        costs: dict[Quantizer, Cost] = {}
        total = 0.0
        for weight in self.plan.weights:
            if weight.quantizer is not None:
                if weight.quantizer not in costs:
                    costs[weight.quantizer] = cost_of(weight.quantizer)
                total += costs[weight.quantizer].seconds(weight.shape)
        return total

    def calibration(self) -> float:
        """Every block runs twice, and twice more where the full-precision model runs as well."""
        passes = 4 if self.plan.runs_beside else 2
        return self.load.samples * sum(passes * self._pass(one) + self._moments(one) for one in self.running)

    def gradients(self) -> float:
        """The model forward, and back to the first block of which gradients are measured."""
        measured = [looks_at_gradients(self.plan, block) for block in self.plan.blocks]
        back = self.plan.blocks[measured.index(True) :] if True in measured else ()
        return self.load.samples * (self.model + DIFFERENTIATED * sum(map(self._pass, back)))

    def budget(self) -> float:
        """Every weight at each of PROBES; by prediction one pass of the blocks, by measurement one of the
        whole model for each group and probe.
        """
        seconds = self.load.samples * sum(self._pass(one) + 2 * self._moments(one) for one in self.running)
        if self.plan.budget_from == "answers":
            groups = sum(len(inputs_of(block)) for block in self.running)
            seconds += groups * len(PROBES) * min(PROBE_SAMPLES, self.load.samples) * self.model
        return seconds + len(PROBES) * self.quantizing()

    def block_tuning(self) -> float:
        judged = 1 / tuning.HELD_OUT
        passes = self.plan.tuning * ((1 - judged) * BACKWARD + judged)
        return self.load.samples * passes * sum(map(self._pass, self.running))

    def model_tuning(self) -> float:
        """The predictions of the full-precision model, the steps, and what judges them."""
        judged = self.load.samples / distillation.HELD_OUT
        trained = self.plan.distillation * (self.load.samples - judged)
        least = distillation.LEAST_STEPS * min(distillation.MOST_SAMPLES, self.load.samples)
        judging = (distillation.JUDGED + 1) * judged
        return self.model * (self.load.samples + BACKWARD * max(trained, least) + judging)

    def _pass(self, block: BlockPlan) -> float:
        """One sample through a block."""
        tokens, widths = self._tokens(block), [linear.shape[1] for linear in block.linears]
        weights = sum(math.prod(linear.shape) * self._reached(linear) for linear in block.linears)
        attention = 4 * tokens**2 * min(widths) if len(widths) > 2 else 0.0
        return (2 * tokens * weights + attention) / self.speed.passes / EFFICIENCY + self.speed.call

    def _moments(self, block: BlockPlan) -> float:
        """The second moments of one sample's inputs of a block."""
        squares = sum(one.shape[1] ** 2 * self._reached(one) for one in inputs_of(block))
        return 2 * self._tokens(block) * squares / self.speed.moments

    def _tokens(self, block: BlockPlan) -> float:
        return next((self.load.tokens[one.part] for one in block.linears if one.part), 0.0)

    def _reached(self, linear: LinearPlan) -> float:
        """The share of the tokens that meet a linear."""
        return 1.0 if layer_of_experts(linear.name) is None else self.share

    def _head(self, source: SourceModel) -> float:
        """The logits of one token; a vision-only model has none."""
        text: Any = source.config.get_text_config()
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
