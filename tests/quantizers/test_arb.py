"""ARB-LLM: no turn raises its objective, the nearest signs are the nearest, and the forms relate as they
should.
"""

from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bivlm.quantizers.arb import ARB, alternate, alternate_rc, nearest_signs
from bivlm.quantizers.billm import BiLLM
from bivlm.quantizers.steps.residual import binarize
from bivlm.types import LinearStats

STORED = load_file(Path(__file__).parents[1] / "golden" / "billm_reference.safetensors")
WEIGHT, STATS = STORED["weight"], LinearStats({"text": STORED["hessian"]}, {"text": 384})


def masked_case(seed):
    random = torch.Generator().manual_seed(seed)
    w, mask = torch.randn(30, 48, generator=random), torch.rand(30, 48, generator=random) < 0.5
    mask[0], mask[:, 3] = False, False
    mask[7], mask[7, 11] = False, True
    return w, mask


def lost(w, mask, q):
    return float(torch.where(mask, w - q, 0.0).double().square().sum())


def loss(q):
    difference = WEIGHT - q.dequantize()
    return float(((difference @ STATS.hessian) * difference).sum())


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_no_turn_with_means_raises_the_objective(order, seed):
    w, mask = masked_case(seed)
    start = binarize(w, mask, order)
    losses = [lost(w, mask, alternate(w, mask, start, rounds).values()) for rounds in range(16)]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(losses))
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_no_turn_with_row_and_column_scales_raises_the_objective(order, seed):
    w, mask = masked_case(seed)
    losses = []
    for rounds in range(16):
        rows, columns, signs = alternate_rc(w, mask, order, rounds)
        losses.append(lost(w, mask, torch.einsum("ok,kb,kob->ob", rows, columns, signs)))
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(losses))
    assert losses[-1] < 0.999 * losses[0]


def test_column_scales_have_mean_one_where_they_serve():
    w, mask = masked_case(0)
    _, columns, _ = alternate_rc(w, mask, 2, 5)
    used = mask.any(0)
    torch.testing.assert_close(columns[:, used].abs().mean(1), torch.ones(2))
    assert bool((columns[:, ~used] == 1).all())


@pytest.mark.parametrize("scales", [(0.5, 0.2), (0.2, 0.5), (-0.5, 0.2), (0.3, -0.7), (0.4, 0.4), (0.0, 0.3)])
def test_two_signs_are_the_nearest_of_four(scales):
    target = torch.linspace(-2, 2, 81)[None]
    first, second = nearest_signs(target, [torch.full_like(target, scale) for scale in scales])
    found = (target - scales[0] * first - scales[1] * second).abs()
    best = torch.stack(
        [(target - scales[0] * a - scales[1] * b).abs() for a, b in product((-1, 1), repeat=2)]
    ).amin(0)
    torch.testing.assert_close(found, best)


def test_refined_in_turns_it_beats_the_parts_that_it_starts_from():
    start = BiLLM().quantize(WEIGHT, STATS)
    plain = ARB(variant="plain", column_groups=False).quantize(WEIGHT, STATS)
    assert loss(plain) < loss(start)
    untouched = ARB(variant="plain", column_groups=False, rounds=0).quantize(WEIGHT, STATS)
    assert torch.equal(untouched.dequantize(), start.dequantize())


def test_the_moment_of_the_inputs_helps():
    assert loss(ARB(variant="x").quantize(WEIGHT, STATS)) < loss(ARB(variant="plain").quantize(WEIGHT, STATS))


@pytest.mark.parametrize("variant", ["plain", "x", "rc"])
def test_column_groups_cost_bits_and_lower_the_error(variant):
    without, groups = (
        ARB(variant=variant, column_groups=flag).quantize(WEIGHT, STATS) for flag in (False, True)
    )
    assert loss(groups) < loss(without)
    assert groups.encode().bits_per_weight() > without.encode().bits_per_weight()


def test_rows_and_columns_take_fewer_bits_than_means():
    tall = torch.cat([WEIGHT, WEIGHT.flip(0)] * 8)
    rc, plain = (
        ARB(variant=variant, column_groups=False).quantize(tall, STATS).encode().bits_per_weight()
        for variant in ("rc", "plain")
    )
    assert rc < plain - 0.2
