"""DBF: a planted product is found again, bits are what was asked for, and the refit and the weighting
help.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from bivlm.formats import FactorsWeight
from bivlm.formats.factors import factors_nbytes
from bivlm.quantizers.dbf import DBF, _Factor, _projected, refit_scales
from bivlm.types import LinearStats


def random_weight(out=48, columns=64, seed=0):
    return 0.05 * torch.randn(out, columns, generator=torch.Generator().manual_seed(seed))


def stats_of(columns=64, seed=0):
    """Correlated inputs, the strongest thirty times as strong as the weakest."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(6 * columns, columns, generator=random) @ (
        torch.eye(columns) + torch.randn(columns, columns, generator=random) / columns**0.5
    )
    x = x * torch.logspace(-0.75, 0.75, columns)
    return LinearStats({"text": x.T @ x / len(x)}, {"text": len(x)})


def planted(out, columns, rank, seed=0):
    random = torch.Generator().manual_seed(seed)

    def signs(*shape):
        return (torch.randn(*shape, generator=random) > 0).float() * 2 - 1

    def scales(size):
        return torch.rand(size, generator=random) + 0.5

    left = scales(out)[:, None] * signs(out, rank) * scales(rank)
    return left @ (signs(rank, columns) * scales(columns))


def loss(w, q, hessian=None):
    difference = (w - q.dequantize()).double()
    return float(
        ((difference @ hessian.double()) * difference).sum()
        if hessian is not None
        else difference.square().sum()
    )


def relative(w, q):
    return loss(w, q) / float(w.double().square().sum())


def test_a_planted_product_is_found_again():
    w = planted(96, 128, 8)
    bits = 8 * factors_nbytes((96, 128), 8) / w.numel()
    q = DBF(bits=bits, weighting="none").quantize(w, None)
    assert isinstance(q, FactorsWeight)
    assert q.rank == 8
    assert relative(w, q) < 1e-5


def test_rank_one_is_exact_up_to_rounding():
    w = planted(20, 30, 1)
    assert relative(w, DBF(bits=0.01, weighting="none", rounds=3).quantize(w, None)) < 1e-6


def test_the_step_projects_as_the_paper_says():
    """Signs times the best rank-1 matrix of the magnitudes, by a singular value decomposition; what is left
    over is the dual.
    """
    wanted = random_weight(12, 20)
    factor = _Factor(wanted, wanted, torch.ones(20))
    for _ in range(20):
        factor = _projected(wanted, factor.direction)
    u, s, v = np.linalg.svd(np.abs(wanted.double().numpy()))
    expected = np.sign(wanted.numpy()) * s[0] * np.abs(np.outer(u[:, 0], v[0]))
    assert np.allclose(factor.values, expected, atol=1e-6)
    assert torch.allclose(factor.values + factor.dual, wanted)


def test_the_error_falls_with_the_bits():
    w = random_weight()
    errors = [
        relative(w, DBF(bits=bits, weighting="none").quantize(w, None)) for bits in (1.0, 2.0, 3.0, 4.5)
    ]
    assert all(more > 1.3 * fewer for more, fewer in itertools.pairwise(errors))
    assert errors[1] < 1 - 2 / math.pi  # what signs alone leave of a Gaussian


def test_more_rounds_help():
    w = random_weight(96, 96)
    few, many = (relative(w, DBF(weighting="none", rounds=rounds).quantize(w, None)) for rounds in (4, 40))
    assert many < 0.8 * few


@pytest.mark.parametrize("bits", [1.5, 2.0, 3.3, 8.0])
@pytest.mark.parametrize("shape", [(48, 64), (130, 50), (33, 97)])
def test_bits_are_those_that_were_asked_for_and_no_rank_more_fits(shape, bits):
    quantizer = DBF(bits=bits, weighting="none", rounds=1)
    q = quantizer.quantize(random_weight(*shape), None)
    assert isinstance(q, FactorsWeight)
    assert q.encode().bits_per_weight() == quantizer.bits_bound(shape) <= bits
    assert 8 * factors_nbytes(shape, q.rank + 1) > bits * shape[0] * shape[1]
    assert quantizer.paper_bits(q) == pytest.approx(q.rank * (1 / shape[0] + 1 / shape[1]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (300, 3), (2, 2)])
@pytest.mark.parametrize("bits", [0.5, 8.0])
def test_tiny_shapes(shape, bits):
    """Rank 1 where the scales alone cost more than was asked for; rows and columns that rank 1 holds are
    exact.
    """
    w = random_weight(*shape)
    q = DBF(bits=bits).quantize(w, stats_of(shape[1]))
    assert q.shape == shape
    assert bool(q.dequantize().isfinite().all())
    if 1 in shape:
        assert relative(w, q) < 1e-5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rounds", [1, 40])
def test_the_refit_never_raises_the_error(seed, rounds):
    """And lowers it from arbitrary scales; a second one starts from its own result."""
    w, hessian = random_weight(seed=seed), stats_of(seed=seed).hessian
    q = DBF(rounds=rounds, seed=seed).quantize(w, stats_of(seed=seed))
    assert isinstance(q, FactorsWeight)
    assert loss(w, refit_scales(w, q, hessian), hessian) <= loss(w, q, hessian)
    rough = FactorsWeight(
        q.left_signs,
        q.right_signs,
        *(torch.ones_like(s) for s in (q.row_scale, q.middle_scale, q.column_scale)),
        exponent=-5,
    )
    assert loss(w, refit_scales(w, rough, hessian), hessian) < 0.1 * loss(w, rough, hessian)


def test_the_refit_keeps_what_is_already_right():
    random = torch.Generator().manual_seed(0)
    signs = torch.randn(6, 4, generator=random) > 0, torch.randn(4, 9, generator=random) > 0
    q = FactorsWeight(*signs, *(torch.ones(size).half() for size in (6, 4, 9)), exponent=0)
    assert refit_scales(q.dequantize(), q, torch.eye(9)) == q


@pytest.mark.parametrize("seed", range(3))
def test_weighting_lowers_the_weighted_error(seed):
    w, stats = random_weight(seed=seed), stats_of(seed=seed)
    weighted, plain = (DBF(weighting=weighting).quantize(w, stats) for weighting in ("diagonal", "none"))
    assert loss(w, weighted, stats.hessian) < 0.8 * loss(w, plain, stats.hessian)
    assert loss(w, plain) < loss(w, weighted)


def test_another_seed_gives_other_signs_and_much_the_same_error():
    w = random_weight()
    one, two = (DBF(weighting="none", seed=seed).quantize(w, None) for seed in (0, 1))
    assert one != two
    assert relative(w, one) == pytest.approx(relative(w, two), rel=0.2)


@pytest.mark.parametrize("power", [-100, -40, 0, 40, 100])
def test_the_size_of_the_weights_changes_nothing_but_the_exponent(power):
    w = random_weight(20, 30)
    plain, scaled = (
        DBF(weighting="none", rounds=5).quantize(x, None).dequantize()
        for x in (w, w.ldexp(torch.tensor(power)))
    )
    assert torch.allclose(scaled.ldexp(torch.tensor(-power)), plain, rtol=1e-3, atol=1e-4)


def test_zeros_and_inputs_that_never_come():
    assert not DBF().quantize(torch.zeros(20, 30), stats_of(30)).dequantize().any()
    w = random_weight(20, 30)
    w[3], w[:, 5] = 0.0, 0.0
    dead = LinearStats({"text": torch.diag((torch.arange(30) > 10).float())}, {"text": 7})
    assert bool(DBF().quantize(w, dead).dequantize().isfinite().all())
    none = LinearStats({"text": torch.zeros(30, 30)}, {"text": 7})
    assert DBF().quantize(w, none) == DBF(weighting="none").quantize(w, None)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(bad):
    w = random_weight()
    w[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        DBF(weighting="none").quantize(w, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 0.0},
        {"bits": 8.5},
        {"weighting": "full"},
        {"rounds": 0},
        {"inner": 0},
        {"penalty": 0.0},
        {"ridge": 0.001},
        {"rank": 3},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DBF(**wrong)


@pytest.mark.parametrize("bits", [1.0, 4.0, 8.0])
def test_a_moment_that_is_not_positive_definite_is_damped_with_a_word_or_refused(bits, caplog):
    """The refit sees all of it: without a check it trades the weight for an error below zero."""
    w = random_weight(20, 60)
    slightly, far = (
        torch.eye(60) - 1.05 * torch.full((60, 60), 1 / 60),
        torch.eye(60) - torch.full((60, 60), 0.5),
    )
    q = DBF(bits=bits).quantize(w, LinearStats({"text": slightly}, {"text": 9}))
    assert "not positive definite" in caplog.text
    assert relative(w, q) < 1
    for moment in (far, -torch.eye(60)):
        with pytest.raises(ValueError, match=r"not positive definite|inputs are zero"):
            DBF(bits=bits).quantize(w, LinearStats({"text": moment}, {"text": 9}))


@pytest.mark.parametrize("power", [-90, -40, 40, 90])
def test_the_size_of_the_inputs_changes_nothing(power):
    w, stats = random_weight(20, 30), stats_of(30)
    scaled = LinearStats({"text": stats.hessian.ldexp(torch.tensor(power))}, {"text": 9})
    assert DBF(rounds=5).quantize(w, scaled) == DBF(rounds=5).quantize(w, stats)


def test_columns_that_no_token_excites_hardly_count():
    w = random_weight(20, 60)
    half = torch.diag((torch.arange(60) >= 30).float())
    q = DBF(bits=4.0).quantize(w, LinearStats({"text": half}, {"text": 9}))
    assert loss(w, q, half) < 0.8 * loss(w, DBF(bits=4.0, weighting="none").quantize(w, None), half)


def test_a_rank_that_the_format_can_hold():
    """So few bits that a file would be far smaller than its weight: the least rank takes its place."""
    method = DBF(bits=1e-6)
    assert method.rank((64, 256)) == 1
    for shape in ((16384, 16384), (1 << 20, 1 << 20)):
        rank = method.rank(shape)
        assert (
            1024 * factors_nbytes(shape, rank) >= shape[0] * shape[1] > 1024 * factors_nbytes(shape, rank - 1)
        )
