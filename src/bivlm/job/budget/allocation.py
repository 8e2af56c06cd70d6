"""A budget of true bits, allocated among groups of linears by their effect on the answers, or on the vectors
of an embedding model (sensitivity.py).

The divergences of groups nearly add up, because the errors are small and independent. A greedy choice is then
the best one, up to the last few steps: the next steps of bits, one or several at once, go to the group where
they lower the sum most per byte. No group gets fewer bits than the budget minus LESS, or more than the budget
plus MORE (fewer only if the scales alone leave no choice), because a measurement on a few prompts is not
exact.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from bivlm.calibration.gradients import Gradients
from bivlm.calibration.inputs import CalibrationInput
from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.job.budget.prediction import predict
from bivlm.job.budget.sensitivity import Sensitivity, SensitivityFile, measure
from bivlm.job.plan import LinearPlan, Plan
from bivlm.quantizers import Quantizer

LEAST, MOST, STEP = 0.5, 4.0, 0.125  # bits that a group can get
LESS, MORE = 0.75, 1.5  # than the budget, at most


def allocate(
    source: SourceModel,
    plan: Plan,
    samples: Sequence[CalibrationInput],
    budget: float,
    file: SensitivityFile,
    events: Events = SILENT,
    gradients: Gradients | None = None,
    crew: Crew = ALONE,
) -> Plan:
    """The plan with the bits of every linear chosen so that all packed weights together take `budget` true
    bits per weight.

    Sensitivities that are not in `file` are added to it: measured, which needs the whole model in memory, or
    predicted from `gradients`, as the plan says; a `crew` does it together, and has the same plan.
    """
    if plan.budget_from == "gradients":
        assert gradients is not None
        groups = predict(source, plan, samples, file, gradients, events, crew)
    else:
        groups = measure(source, plan, samples, file, events, gradients, crew)
    quantizers, shapes = _quantized(plan)
    bits = deal_out(groups, quantizers, shapes, linear_budget(plan, budget))

    def dealt(linear: LinearPlan) -> LinearPlan:
        if linear.name not in bits:
            return linear
        return replace(linear, quantizer=quantizers[linear.name].with_bits(bits[linear.name]))

    blocks = [replace(block, linears=tuple(map(dealt, block.linears))) for block in plan.blocks]
    return replace(plan, blocks=tuple(blocks))


def _quantized(plan: Plan) -> tuple[dict[str, Quantizer], dict[str, tuple[int, int]]]:
    """The quantizers and the shapes of the blocks' linears, by name."""
    linears = [linear for block in plan.blocks for linear in block.quantized]
    quantizers = {linear.name: linear.quantizer for linear in linears if linear.quantizer is not None}
    return quantizers, {linear.name: linear.shape for linear in linears}


def linear_budget(plan: Plan, budget: float) -> float:
    """The true bits per weight that a budget for all packed weights leaves to the linears of the blocks:
    embedding and head have fixed bits.

    InputError if the budget cannot be reached; it names the possible range.
    """
    quantizers, shapes = _quantized(plan)
    if not plan.tables:
        check_budget(quantizers, shapes, budget)
        return budget
    fixed = sum(math.prod(table.shape) for table in plan.tables)
    taken = sum(table.quantizer.bits_bound(table.shape) * math.prod(table.shape) for table in plan.tables)
    weights = sum(map(math.prod, shapes.values()))
    fewest, most = ((bits * weights + taken) / (weights + fixed) for bits in reach(quantizers, shapes))
    if not fewest <= budget <= most:
        raise InputError(
            f"a budget of {budget:g} bits is out of reach: with {taken / fixed:.2f} bits for embedding and"
            f" head, which are {fixed / (weights + fixed):.0%} of the weights, everything packed takes"
            f" {fewest:.2f} … {most:.2f} true bits per weight"
        )
    return (budget * (weights + fixed) - taken) / weights


def check_budget(
    quantizers: Mapping[str, Quantizer], shapes: Mapping[str, tuple[int, int]], budget: float
) -> None:
    """InputError if linears (by name) with these quantizers and shapes cannot take `budget` true bits per
    weight together; it names the possible range.
    """
    fewest, most = reach(quantizers, shapes)
    if not fewest <= budget <= most:
        raise InputError(
            f"a budget of {budget:g} bits is out of reach: these linears take {fewest:.2f} … {most:.2f} true"
            " bits per weight"
        )


def reach(quantizers: Mapping[str, Quantizer], shapes: Mapping[str, tuple[int, int]]) -> tuple[float, float]:
    """The fewest and the most true bits per weight that linears (by name) with these quantizers and shapes
    can take together.
    """
    weights = sum(math.prod(shapes[name]) for name in quantizers)
    fewest, most = (
        sum(
            quantizer.with_bits(bits).bits_bound(shapes[name]) * math.prod(shapes[name])
            for name, quantizer in quantizers.items()
        )
        / weights
        for bits in (LEAST, MOST)
    )
    return fewest, most


def deal_out(
    sensitivities: Sequence[Sensitivity],
    quantizers: Mapping[str, Quantizer],
    shapes: Mapping[str, tuple[int, int]],
    budget: float,
) -> dict[str, float]:
    """Bits for every linear: together they take at most `budget` true bits per weight, scales included, and
    the sum of the divergences is the smallest.

    `quantizers` and `shapes` are those of the linears, by name. InputError if the budget cannot be reached;
    it names the possible range.
    """
    stored = _stored_bits(sensitivities, quantizers, shapes)
    groups = range(len(sensitivities))
    weights = sum(math.prod(shapes[name]) for group in sensitivities for name in group.linears)
    check_budget(
        {name: quantizers[name] for group in sensitivities for name in group.linears}, shapes, budget
    )
    least = min(MOST, max(LEAST, math.ceil((budget - LESS) / STEP) * STEP))
    highest = min(MOST, math.floor((budget + MORE) / STEP) * STEP)
    while (
        least > LEAST and sum(stored(index, least) for index in groups) > budget * weights
    ):  # small linears, whose scales take more than LESS
        least = max(LEAST, least - STEP)
    given = [least] * len(sensitivities)
    left = budget * weights - sum(stored(index, least) for index in groups)

    def rise(index: int) -> tuple[float, int, float] | None:
        """The next bits of a group that still fit and gain most per byte; several steps at once if they gain
        more.
        """
        group, here = sensitivities[index], given[index]
        found = []
        for bits in (here + STEP * count for count in range(1, 1 + int((highest - here) / STEP))):
            size = stored(index, bits) - stored(index, here)
            if size <= left:
                found.append(((group.at(bits) - group.at(here)) / max(size, 1), index, bits))
        return min(found, default=None)

    rises = [found for index in groups if (found := rise(index)) is not None]
    heapq.heapify(rises)
    while rises:
        _, index, bits = heapq.heappop(rises)
        size = stored(index, bits) - stored(index, given[index])
        if size <= left:
            given[index] = bits
            left -= size
        if (found := rise(index)) is not None:
            heapq.heappush(rises, found)
    return {name: bits for group, bits in zip(sensitivities, given, strict=True) for name in group.linears}


def _stored_bits(
    sensitivities: Sequence[Sensitivity],
    quantizers: Mapping[str, Quantizer],
    shapes: Mapping[str, tuple[int, int]],
) -> Callable[[int, float], int]:
    """An upper bound of the true bits, in total, of a group (by its index) at these bits per linear."""

    @cache
    def bound(quantizer: Quantizer, shape: tuple[int, int], bits: float) -> int:
        return round(quantizer.with_bits(bits).bits_bound(shape) * math.prod(shape))

    return lambda index, bits: sum(
        bound(quantizers[name], shapes[name], bits) for name in sensitivities[index].linears
    )
