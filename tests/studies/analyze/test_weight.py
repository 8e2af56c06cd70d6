"""The statistics of one weight and the curves of J, against numpy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from bivlm.quantizers.steps.saliency_search import SaliencyObjective, best_salient_share
from bivlm.studies.analyze import weight as weight_statistics
from bivlm.studies.analyze.weight import (
    BANDS,
    BINS,
    OUTLIERS,
    RANGE,
    STEPS,
    TAIL_RULES,
    WeightStatistics,
    bin_edges,
    divergence_by_chance,
    divergence_from_gaussian,
    gaussian_outliers,
    gaussian_shares,
    pooled_outliers,
    saliency_curves,
    saliency_shares,
    statistics,
)

LAPLACE = (
    0.5 * np.log(np.pi) - 0.5
)  # KL of a Laplace distribution from the Gaussian of its mean and deviation: 0.0724 nats
UNIFORM = 0.5 * np.log(2 * np.pi * np.e / 12)  # and that of a uniform one: 0.1765


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laplace(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).laplace(size=shape)).float()


# the statistics of one weight


def test_the_bins_hold_all_of_a_gaussian():
    shares, edges = gaussian_shares(), bin_edges()
    assert shares.sum() == pytest.approx(1, abs=1e-15)
    assert shares[1:-1] == pytest.approx(ndtr(edges[1:]) - ndtr(edges[:-1]), abs=1e-15)
    assert shares[[0, -1]] == pytest.approx(ndtr(-RANGE), rel=1e-12)


def test_a_gaussian_has_no_divergence_but_what_chance_gives():
    found = statistics(gaussian(1000, 1000))
    assert found.kl == pytest.approx(found.kl_by_chance, rel=0.5)
    assert found.kl < 5e-5
    assert found.kurtosis == pytest.approx(0, abs=0.02)
    assert found.outliers[:2] == pytest.approx(gaussian_outliers()[:2], rel=0.2)
    assert statistics(gaussian(1000, 1000).bfloat16()).kl < 1e-4  # in bfloat16's steps


@pytest.mark.parametrize("count", [300, 20_000])
def test_chance_gives_as_much_as_it_says(count):
    found = np.mean([statistics(gaussian(count, seed=seed)).kl for seed in range(100)])
    assert found == pytest.approx(divergence_by_chance(count), rel=0.07)


@pytest.mark.parametrize(
    ("weight", "divergence", "kurtosis"),
    [
        (laplace(1000, 1000), LAPLACE, 3.0),
        (torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0)), UNIFORM, -1.2),
    ],
    ids=["Laplace", "uniform"],
)
def test_known_distributions_have_their_analytic_values(weight, divergence, kurtosis):
    found = statistics(0.03 * weight - 0.01)
    assert found.kl == pytest.approx(divergence, rel=0.07)
    assert found.kurtosis == pytest.approx(kurtosis, abs=0.1)


def test_the_divergence_is_the_sum_over_the_bins():
    histogram = [0] * (BINS + 2)
    histogram[0], histogram[33], histogram[40] = 1, 2, 1
    shares = gaussian_shares()
    expected = (
        0.25 * np.log(0.25 / shares[0]) + 0.5 * np.log(0.5 / shares[33]) + 0.25 * np.log(0.25 / shares[40])
    )
    assert divergence_from_gaussian(histogram) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 200),
    st.integers(1, 3),
    st.sampled_from([1e-6, 1.0, 1e4]),
    st.sampled_from([0.0, -3.0]),
    st.integers(0, 9),
    st.booleans(),
)
def test_the_numbers_are_numpys(rows, columns, scale, mean, seed, heavy):
    weight = scale * (mean + gaussian(rows, columns, seed=seed) ** (5 if heavy else 1))
    w = weight.double().numpy().reshape(-1)
    z = (w - w.mean()) / w.std()
    found = statistics(weight)
    assert (found.mean, found.std) == pytest.approx((w.mean(), w.std()))
    assert found.kurtosis == pytest.approx((z**4).mean() - 3, rel=1e-9, abs=1e-9)
    assert found.outliers == tuple((np.abs(z) > limit).mean() for limit in OUTLIERS)
    assert found.largest == pytest.approx(np.abs(z).max())
    inside = [
        int(((z >= low) & (z < high)).sum())
        for low, high in zip(bin_edges()[:-1], bin_edges()[1:], strict=True)
    ]
    assert found.histogram == (int((z < -RANGE).sum()), *inside, int((z >= RANGE).sum()))


def test_pieces_make_no_difference(monkeypatch):
    weight = laplace(37, 53)
    whole = statistics(weight)
    monkeypatch.setattr(weight_statistics, "PIECE", 100)
    pieces = statistics(weight)
    assert pieces.histogram == whole.histogram
    assert (pieces.mean, pieces.std, pieces.kurtosis, pieces.largest) == pytest.approx(
        (whole.mean, whole.std, whole.kurtosis, whole.largest)
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -2.0])
def test_a_weight_of_one_number_has_no_shape(value):
    weight = torch.full((40, 30), value)
    assert statistics(weight) == WeightStatistics(weight[0, 0].item(), 0.0)
    assert all(
        np.isfinite(curve.errors).all() for curve in saliency_curves(weight, 0.05, rounds=10, alpha=1.4)
    )


def test_outliers_are_pooled_by_the_number_of_weights():
    weights = [laplace(30, 40), gaussian(500, 70), torch.zeros(9, 9)]
    z = np.concatenate(
        [((w - w.mean()) / w.std(correction=0)).double().numpy().reshape(-1) for w in weights[:2]]
    )
    assert pooled_outliers([statistics(weight) for weight in weights]) == pytest.approx(
        [(np.abs(z) > limit).mean() for limit in OUTLIERS]
    )
    assert pooled_outliers([statistics(torch.zeros(9, 9))]) is None


# the curves of J


@pytest.mark.parametrize("salient_max", [0.01, 0.05])
def test_the_curves_are_those_of_the_quantizers_search(salient_max):
    weight = laplace(96, 128)
    curves = saliency_curves(weight, salient_max, rounds=10, alpha=1.4)
    assert [(curve.levels, curve.bands) for curve in curves] == [
        (levels, bands) for levels in TAIL_RULES for bands in BANDS
    ]
    shares = saliency_shares(salient_max)
    assert (shares[0], shares[-1], len(shares)) == (0.0, salient_max, STEPS + 1)
    for curve in curves:
        objective = SaliencyObjective(weight, curve.bands, salient_max, curve.levels, rounds=10, alpha=1.4)
        assert curve.errors == pytest.approx([objective(p) for p in shares], rel=1e-9)
        assert curve.best_error == min(curve.errors) == curve.errors[shares.index(curve.best_share)]


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("levels", TAIL_RULES)
def test_the_lowest_point_agrees_with_the_quantizers_choice(bands, levels):
    weight = gaussian(256, 256)
    curve = next(
        c
        for c in saliency_curves(weight, 0.05, rounds=10, alpha=1.4)
        if (c.bands, c.levels) == (bands, levels)
    )
    objective = SaliencyObjective(weight, bands, 0.05, levels, rounds=10, alpha=1.4)
    chosen = best_salient_share(objective, 0.05)
    assert abs(curve.best_share - chosen) <= 0.05 / STEPS
    assert curve.best_error == pytest.approx(objective(chosen), rel=0.01)
