"""GPTQ against the plain column-by-column algorithm, and what its settings promise."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from bivlm.formats import LevelsWeight, UniformWeight
from bivlm.quantizers.gptq import GPTQ
from bivlm.types import LinearStats


def case(out=24, columns=48, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(6 * columns, columns, generator=random) @ (
        torch.eye(columns) + torch.randn(columns, columns, generator=random) / columns**0.5
    )
    x = x * torch.logspace(-0.5, 0.5, columns)
    return 0.05 * torch.randn(out, columns, generator=random), LinearStats(
        {"text": x.T @ x / len(x)}, {"text": len(x)}
    )


def loss(w, q, stats):
    difference = (w - q.dequantize()).double()
    return float(((difference @ stats.hessian.double()) * difference).sum())


def plain_gptq(w, hessian, grid, order, damping=0.01):
    """Algorithm 1 of the paper without its blocks, in float64: the inverse is updated by elimination, one
    column after the other.
    """
    w, h = w.double()[:, order].clone(), hessian.double()[order][:, order]
    inverse = torch.linalg.inv(h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64))
    for j in range(w.shape[1]):
        quantized = grid(w[:, j], int(order[j]))
        error = (w[:, j] - quantized) / inverse[j, j]
        w[:, j:] -= error[:, None] * inverse[j, j:]
        w[:, j] = quantized
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    result = torch.empty_like(w)
    result[:, order] = w
    return result


@pytest.mark.parametrize("zero_point", ["middle", "code", "free"])
@pytest.mark.parametrize("act_order", [True, False])
def test_equals_the_plain_algorithm_on_the_same_grids(zero_point, act_order):
    w, stats = case()
    q = GPTQ(
        bits=3, group_size=100, zero_point=zero_point, act_order=act_order, refit=False, block_size=16
    ).quantize(w, stats)
    scale, columns = q.scales.expand()[:, 0, 0].double(), torch.arange(48)
    zero = q.zero_points[:, 0].double() if q.zero_points.numel() else torch.tensor(3.5).double()

    def grid(column, _):
        return ((column / scale + zero).round().clamp(0, 7) - zero) * scale

    order = stats.hessian.diagonal().argsort(descending=True, stable=True) if act_order else columns
    expected = plain_gptq(w, stats.hessian, grid, order)
    assert (
        float(((q.dequantize() - expected).abs() > 1e-5).double().mean()) < 0.003
    )  # a weight on the very edge of two codes may fall either way


def test_without_activation_order_groups_are_fitted_when_their_turn_comes():
    w, stats = case()
    static = GPTQ(group_size=16, refit=False).quantize(w, stats)
    dynamic = GPTQ(group_size=16, act_order=False, refit=False, block_size=16).quantize(w, stats)
    assert torch.equal(
        static.scales.expand()[:, 0], dynamic.scales.expand()[:, 0]
    )  # nothing has been fed on to the first group
    assert not torch.equal(static.scales.expand()[:, 1], dynamic.scales.expand()[:, 1])
    other = GPTQ(group_size=16, act_order=False, refit=False, block_size=48).quantize(w, stats)
    torch.testing.assert_close(other.dequantize(), dynamic.dequantize(), rtol=0, atol=0.02)
    assert float(((other.dequantize() - dynamic.dequantize()).abs() > 1e-5).float().mean()) < 0.02


@pytest.mark.parametrize(
    "settings", [{}, {"zero_point": "middle"}, {"zero_point": "code"}, {"grid": "lloyd"}, {"scale_bits": 8}]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_refit_never_raises_the_error_and_mostly_lowers_it(settings, seed):
    w, stats = case(seed=seed)
    method = GPTQ(group_size=16, **settings)
    before = loss(w, dataclasses.replace(method, refit=False).quantize(w, stats), stats)
    assert loss(w, method.quantize(w, stats), stats) < before


def test_more_bits_less_error():
    w, stats = case()
    losses = [loss(w, GPTQ(bits=bits).quantize(w, stats), stats) for bits in range(1, 9)]
    assert all(after < before / 2 for before, after in pairwise(losses))


def test_free_levels_are_stored_as_levels_and_beat_the_grid():
    w, stats = case(out=64, columns=64)
    free, even = GPTQ(grid="lloyd").quantize(w, stats), GPTQ().quantize(w, stats)
    assert isinstance(free, LevelsWeight)
    assert isinstance(even, UniformWeight)
    assert loss(w, free, stats) < loss(w, even, stats)


def test_ternary_takes_three_levels_and_one_point_six_bits():
    w, stats = case(columns=40)
    q = GPTQ(alphabet=3, group_size=40, zero_point="middle").quantize(w, stats)
    assert int(q.codes.max()) == 2
    assert q.encode().bits_per_weight() == 1.6 + 16 / 40


def test_more_than_sixteen_free_levels_are_refused():
    with pytest.raises(ValueError, match="at most 16"):
        GPTQ(grid="lloyd", bits=5)


def test_a_dead_column_a_constant_row_and_few_tokens():
    w, _ = case()
    w[3] = 0.7
    x = torch.randn(10, 48, generator=torch.Generator().manual_seed(1))
    x[:, 5] = 0
    stats = LinearStats({"text": x.T @ x / 10}, {"text": 10})
    q = GPTQ(group_size=20).quantize(w, stats)
    assert bool(q.dequantize().isfinite().all())
    assert loss(w, q, stats) < 0.2 * float(((w @ stats.hessian) * w).sum())


def test_inputs_that_are_all_zero_leave_rounding_without_data():
    w, _ = case()
    q = GPTQ().quantize(w, LinearStats({"text": torch.zeros(48, 48)}, {"text": 5}))
    assert float((w - q.dequantize()).square().sum()) < 0.2 * float(w.square().sum())


def test_tiny_and_huge_weights_keep_their_precision():
    w, stats = case()
    reference = loss(w, GPTQ().quantize(w, stats), stats) / float(w.square().sum())
    for factor in (1e-12, 1e12):
        q = GPTQ().quantize(w * factor, stats)
        assert loss(w * factor, q, stats) / float((w * factor).double().square().sum()) == pytest.approx(
            reference, rel=0.05
        )
