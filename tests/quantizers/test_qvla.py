"""QVLA against its public code (tests/golden/seeds), and what its settings promise."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from bivlm.contracts.quantizer import fisher_of, stats_of, trace_error, weight_of
from bivlm.quantizers import GPTQ, QVLA
from bivlm.quantizers.qvla import row_costs
from bivlm.quantizers.steps.compensation import moment_factor
from bivlm.quantizers.steps.row_widths import choose_widths
from bivlm.types import LinearStats

PUBLIC = load_file(Path(__file__).parents[1] / "golden" / "seeds" / "qvla.safetensors")
WIDTHS = (0, 2, 4, 8, 16)
LAYERS = ("small", "wide")
# the widths of the public code at three averages, of the rows of both layers; and the average over weights
GATES = {
    8.0: ([8] * 24, [8] * 16, 8.0),
    4.0: ([8] + [4] * 23, [4] * 13 + [2] * 3, 3.8055555555555554),
    3.0: ([4] * 15 + [2] * 7 + [0] * 2, [4] * 9 + [2] * 5 + [0] * 2, 2.9444444444444446),
}


def moment_of(layer):
    x = PUBLIC[f"{layer}.inputs"].flatten(0, 1)
    return 2 * x.T @ x / len(PUBLIC[f"{layer}.inputs"])


def public_costs(layer):
    return torch.stack([PUBLIC[f"{layer}.proxy{width}"] for width in WIDTHS], 1)


def at_width(layer, width):
    """All rows of a layer at one width, as this method stores them."""
    weight, moment = PUBLIC[f"{layer}.weight"], moment_of(layer)
    method = QVLA(bits=16.0, widths=(width,)) if width else None
    if method is None:
        return torch.zeros_like(weight)
    return method.quantize(weight, LinearStats({"text": moment}, {"text": 1})).dequantize()


def in_float32(layer, width):
    """The same with scales that are not rounded to float16."""
    weight, largest = PUBLIC[f"{layer}.weight"], 2 ** (width - 1) - 1
    if not width:
        return torch.zeros_like(weight)
    scale = weight.abs().amax(1, keepdim=True) / largest
    return (weight / scale).round().clamp(-largest, largest) * scale


@pytest.mark.parametrize("layer", LAYERS)
def test_the_costs_of_the_rows_are_those_of_the_public_code(layer):
    weight = PUBLIC[f"{layer}.weight"]
    pivots = moment_factor(moment_of(layer), 0.01).diagonal()
    torch.testing.assert_close(pivots, 1 / PUBLIC[f"{layer}.diag_cholesky_inverse"], rtol=1e-5, atol=0)
    exact, stored = ([of(layer, width) for width in WIDTHS[:-1]] for of in (in_float32, at_width))
    public = public_costs(layer)[:, :-1]
    torch.testing.assert_close(row_costs(weight, exact, pivots), public, rtol=1e-5, atol=0)
    torch.testing.assert_close(row_costs(weight, stored, pivots)[:, :3], public[:, :3], rtol=0.02, atol=0)


@pytest.mark.parametrize("target", GATES)
def test_the_widths_are_those_of_the_public_code(target):
    """Of both layers together, averaged over rows however wide they are."""
    *gates, over_weights = GATES[target]
    costs = torch.cat([public_costs(layer) for layer in LAYERS])
    sizes = [[float(width) for width in WIDTHS]] * len(costs)
    chosen = choose_widths(costs, sizes, target * len(costs), "cost")
    found = [[WIDTHS[place] for place in own] for own in chosen.split([24, 16])]
    assert sorted(found[0]) == sorted(gates[0])
    assert sorted(found[1]) == sorted(gates[1])
    bits = sum(sum(own) * columns for own, columns in zip(found, (32, 96), strict=True))
    assert bits / (24 * 32 + 16 * 96) == over_weights


@pytest.mark.parametrize("target", GATES)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_rows_are_those_of_the_public_code(layer, target):
    """Every row of its result is one of ours at some width, up to the rounding of the scale, which moves a
    few weights to the next level.
    """
    public = PUBLIC[f"{layer}.quantized{target}"]
    exact, stored = (
        torch.stack([of(layer, width) for width in WIDTHS[:-1]]) for of in (in_float32, at_width)
    )
    off = (exact - public).abs().amax(2).min(0)
    assert float(off.values.max()) < 1e-6
    ours = stored[off.indices, torch.arange(len(public))]
    assert float(((ours - public).abs() > 1e-3 * public.abs()).float().mean()) < 0.02


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(0, 99), st.floats(0.0, 16.0))
def test_the_increase_is_optimal_up_to_its_last_step(rows, seed, target):
    """Compared with all choices: none that takes as many bits or fewer costs less."""
    random = torch.Generator().manual_seed(seed)
    costs = torch.rand(rows, 5, generator=random).sort(1, descending=True).values
    sizes = [[float(width) for width in WIDTHS]] * rows
    chosen = choose_widths(costs, sizes, target * rows, "increase").tolist()
    total = sum(WIDTHS[place] for place in chosen)
    assert total <= target * rows + 1e-6
    cost = sum(float(costs[row, place]) for row, place in enumerate(chosen))
    for other in product(range(5), repeat=rows):
        if sum(WIDTHS[place] for place in other) <= total:
            assert cost <= sum(float(costs[row, place]) for row, place in enumerate(other)) + 1e-6


def test_the_increase_costs_less_than_the_cost_at_the_next_width():
    w, stats = uneven(), stats_of(128)
    loss = {score: trace_error(w, QVLA(bits=3.0, score=score).quantize(w, stats), stats.hessian)
            for score in ("increase", "cost")}  # fmt: skip
    assert loss["increase"] < loss["cost"]


def uneven():
    """Rows of very unequal size."""
    return weight_of((64, 128)) * torch.logspace(-1, 1, 64)[:, None]


@pytest.mark.parametrize("bits", [1.0, 2.5, 4.0, 7.9])
def test_true_bits_are_what_was_asked_for(bits):
    packed = QVLA(bits=bits).quantize(weight_of((256, 512)), stats_of(512)).encode()
    assert bits - 0.06 < packed.bits_per_weight() <= bits


def test_feedback_beats_rounding_at_equal_bits():
    w, stats = weight_of((64, 128)), stats_of(128)
    widths = (0, 2, 3, 4)
    rounded, fed = (
        QVLA(bits=3.0, widths=widths, feedback=feedback).quantize(w, stats) for feedback in (False, True)
    )
    assert trace_error(w, fed, stats.hessian) < 0.5 * trace_error(w, rounded, stats.hessian)


def test_one_width_with_feedback_is_gptq():
    w, stats = weight_of((20, 60)), stats_of(60)
    rows = QVLA(bits=16.0, widths=(3,), feedback=True).quantize(w, stats)
    assert torch.equal(rows.dequantize(), GPTQ(bits=3, group_size=60).quantize(w, stats).dequantize())


def test_rows_that_the_answers_feel_get_more_bits():
    w, stats = weight_of((32, 64)), stats_of(64)
    fisher = fisher_of(w, stats) * torch.where(torch.arange(32) < 4, 1e4, 1.0)[:, None]
    found = QVLA(bits=3.0, row_weight="fisher").quantize(w, replace(stats, fisher=fisher))
    plain = QVLA(bits=3.0).quantize(w, stats)
    lost, before = ((w - q.dequantize())[:4].square().sum() for q in (found, plain))
    assert float(lost) < 0.1 * float(before)
    with pytest.raises(ValueError, match="needs the squared gradients"):
        QVLA(row_weight="fisher").quantize(w, stats)


def test_rows_that_stay_as_they_are_keep_their_bits():
    w = weight_of((8, 33)).bfloat16()
    found = QVLA(bits=16.0, widths=(16,)).quantize(w, stats_of(33))
    assert torch.equal(found.dequantize(), w.float())


@pytest.mark.parametrize("shape", [(1, 64), (1, 1), (7, 1)])
def test_a_weight_of_one_row_or_column_is_never_dropped_whole(shape):
    method = QVLA(bits=0.5)
    found = method.quantize(weight_of(shape), stats_of(shape[1]))
    assert any(part is not None for part in found.parts)
    assert found.encode().bits_per_weight() <= method.bits_bound(shape)


@pytest.mark.parametrize("widths", [(), (0,), (4, 2), (2, 2)])
def test_widths_that_are_none_are_refused(widths):
    with pytest.raises(ValueError, match="widths"):
        QVLA(widths=widths)


def test_one_bit_needs_feedback():
    with pytest.raises(ValueError, match="leave 1 out of widths"):
        QVLA(widths=(1, 2))
