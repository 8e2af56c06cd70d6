"""What a job asks of gradients (calibration/gradients.py): measured once for the whole plan, then used block
by block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bivlm.calibration.gradients import Gradients, measure_gradients
from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.stats import StatsCollector, Weighing, collector_for
from bivlm.checkpoint.groups import layer_of_experts
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.job.measurements import Measurements
from bivlm.job.plan import BlockPlan, Plan
from bivlm.job.recipe import Recipe

LEAST_TOKENS = 16.0  # effective tokens for every input of a linear, or its tokens are not weighed
# Where the visual tokens' shares are all that gradients are for, one of so many samples is measured, and no
# fewer than so many: a share is one number for each linear (docs/trellis.md).
SHARE_EVERY, SHARE_LEAST = 4, 8


def gradients_of(
    source: SourceModel,
    plan: Plan,
    samples: Sequence[CalibrationInput],
    measured: Measurements | None = None,
    events: Events = SILENT,
    crew: Crew = ALONE,
) -> Gradients | None:
    """The gradients of every linear that is quantized, on those samples that are `differentiated`, which have
    targets; None if nothing looks at them. Finished samples are kept among what is `measured`. A `crew`
    measures together.
    """
    chosen = differentiated(plan, samples)
    if not chosen:
        return None
    linears = {
        block.path: [linear.name for linear in block.quantized if looks_at_gradients(plan, block)]
        for block in plan.blocks
    }
    fishers = {
        linear.name
        for block in plan.blocks
        for linear in block.quantized
        if linear.quantizer is not None and linear.quantizer.needs_fisher
    }
    details = [*linears, *(name for names in linears.values() for name in names), "fisher", *sorted(fishers)]
    details += [] if plan.pooling is None else ["pooling", plan.pooling, "signs"]
    details += [] if plan.actions is None else ["actions", str(plan.actions)]
    coherence = plan.budget_from == "gradients"
    details += ["coherence"] if coherence else []
    details += [] if len(chosen) == len(samples) else ["samples", *map(str, chosen)]
    folder = None if measured is None else measured.place("gradients", details)
    return measure_gradients(
        source,
        linears,
        samples,
        chosen=chosen,
        fishers=fishers,
        folder=folder,
        pooling=plan.pooling,
        actions=plan.actions,
        coherence=coherence,
        events=events,
        crew=crew,
    )


def differentiated(plan: Plan, samples: Sequence[CalibrationInput]) -> list[int]:
    """The numbers of the samples on which gradients are measured, ascending: none if gradients can change
    nothing. Powers alone weigh nothing where there are too few tokens, and there is no share of visual tokens
    where there are none.
    """
    if not _looks(plan, sum(sample.visual.numel() for sample in samples)):
        return []
    stride = min(SHARE_EVERY, len(samples) // SHARE_LEAST) if _only_shares(plan) else 1
    return _spread([bool(sample.visual.any()) for sample in samples], max(1, stride))


def needing_answers(plan: Plan, samples: Sequence[CalibrationInput], budget: float | None) -> Sequence[int]:
    """The numbers of the samples that need an answer, ascending: those that are differentiated; all for
    tuning the whole model, for a `budget` that follows gradients, or is about actions.
    """
    if plan.pooling is not None:
        return ()
    chosen = differentiated(plan, samples)
    dealing = budget is not None and (bool(chosen) or plan.actions is not None)
    return range(len(samples)) if plan.distillation > 0 or dealing else chosen


def _spread(kinds: Sequence[bool], stride: int) -> list[int]:
    """Numbers of samples, ascending: of those of each kind, one from every `stride` that follow each other,
    always the same. Which one of them is drawn, because data may come in a rhythm.
    """
    random, found = torch.Generator("cpu").manual_seed(0), list[int]()
    for kind in (True, False):
        own = [number for number, one in enumerate(kinds) if one is kind]
        for start in range(0, len(own), stride):
            some = own[start : start + stride]
            found.append(some[int(torch.randint(0, len(some), (), generator=random, device="cpu"))])
    return sorted(found)


def _only_shares(plan: Plan) -> bool:
    """Whether the visual tokens' shares of whole linears are all that gradients are measured for. An expert
    meets few tokens; vectors and actions are differentiated by random signs: there all samples count.
    """
    quantizers = [
        one.quantizer for block in plan.blocks for one in block.quantized if one.quantizer is not None
    ]
    return (
        plan.budget_from != "gradients"
        and plan.pooling is None
        and plan.actions is None
        and not any(one.needs_fisher or one.gradient_power > 0 for one in quantizers)
        and not any(layer_of_experts(one.name) for block in plan.blocks for one in block.quantized)
    )


def _looks(plan: Plan, tokens: float) -> bool:
    quantizers = [
        (linear.quantizer, linear.shape[1], _shares_tokens(plan, block))
        for block in plan.blocks
        for linear in block.quantized
        if linear.quantizer is not None and linear.quantizer.needs_gradients
    ]
    return plan.budget_from == "gradients" or any(
        quantizer.needs_fisher
        or (shared and quantizer.modality_weight == "gradient")
        or (quantizer.gradient_power > 0 and tokens >= LEAST_TOKENS * columns)
        for quantizer, columns, shared in quantizers
    )


def looks_at_gradients(plan: Plan, block: BlockPlan) -> bool:
    """Whether gradients of a block's linears can change anything, if they are measured at all. Where all
    tokens are visual, their share is known.
    """
    quantizers = [linear.quantizer for linear in block.quantized if linear.quantizer is not None]
    return bool(quantizers) and (
        plan.budget_from == "gradients"
        or any(
            quantizer.needs_gradients
            and (quantizer.needs_fisher or quantizer.gradient_power > 0 or _shares_tokens(plan, block))
            for quantizer in quantizers
        )
    )


def _shares_tokens(plan: Plan, block: BlockPlan) -> bool:
    """Whether text and visual tokens meet in a block."""
    return plan.reads_images and any(linear.part == "language" for linear in block.linears)


def check_head(source: SourceModel, plan: Plan, recipe: Recipe) -> None:
    """InputError if the model has no language head, and the recipe looks at its answers."""
    about_answers = plan.pooling is None and (recipe.budget or plan.distillation or _looks(plan, math.inf))
    if about_answers and source.model.get_output_embeddings() is None:
        raise InputError(
            f"{type(source.model).__name__} has no language head, and recipe {recipe.name} looks at answers;"
            " add fidelity=embedding (--set)"
        )


def block_collector(
    source: SourceModel,
    block: BlockPlan,
    samples: Sequence[CalibrationInput],
    gradients: Gradients | None,
    power: float | None = None,
    crew: Crew = ALONE,
) -> StatsCollector:
    """A collector for the quantized linears of a block, whose tokens count as their quantizers ask for, or by
    one `power` of their squared gradients for all; a `crew` collects together.
    """
    quantizers = {linear.name: linear.quantizer for linear in block.quantized if linear.quantizer is not None}
    modalities = {quantizer.modality_weight for quantizer in quantizers.values()}
    return collector_for(
        source.model,
        quantizers,
        source.family.stacks[block.stack].visual_linears,
        joint=power is not None or modalities <= {"tokens"},
        weighing=None if gradients is None else _weighing(block, samples, gradients, power),
        looked_at={name: quantizer.modality_weight for name, quantizer in quantizers.items()},
        keep_inputs=any(quantizer.needs_inputs for quantizer in quantizers.values()),
        crew=crew,
    )


def _weighing(
    block: BlockPlan, samples: Sequence[CalibrationInput], gradients: Gradients, power: float | None
) -> Weighing:
    """What the gradients say about the quantized linears of a block. Without one `power` for all, the tokens
    of a linear are weighed only if the weights leave it enough effective tokens.
    """
    weights, shares = {}, {}
    visual = [sample.visual for sample in samples]
    for linear in block.quantized:
        assert linear.quantizer is not None
        own, least = power, 0.0
        if own is None:
            own, least = linear.quantizer.gradient_power, LEAST_TOKENS * linear.shape[1]
        if own > 0 and gradients.effective_tokens(linear.name, own) >= least:
            weights[linear.name] = gradients.weights(linear.name, own)
        shares[linear.name] = gradients.visual_share(linear.name, visual)
        if shares[linear.name] is None and gradients.places(linear.name) is not None:
            shares[linear.name] = gradients.visual_share(block.path, visual)  # of an expert that none chose
    known = {name: found for name, found in weights.items() if found is not None}
    places = {name: found for name in known if (found := gradients.places(name)) is not None}
    return Weighing(known, shares, _fishers(block, gradients), places)


def _fishers(block: BlockPlan, gradients: Gradients) -> dict[str, Tensor]:
    """The Fisher information of the block's linears; that of an expert that no token reached is the mean of
    those of the layer's others.
    """
    own = {linear.name for linear in block.quantized}
    found = {name: fisher for name, fisher in gradients.fisher.items() if name in own}
    for linear in block.quantized:
        asks = linear.quantizer is not None and linear.quantizer.needs_fisher
        if asks and linear.name not in found and gradients.places(linear.name) is not None:
            layer, projection = layer_of_experts(linear.name), linear.name.rpartition(".")[2]
            others = [
                fisher
                for name, fisher in gradients.fisher.items()
                if layer_of_experts(name) == layer and name.endswith(f".{projection}")
            ]
            if others:
                found[linear.name] = sum(others[1:], start=others[0]) / len(others)
    return found
