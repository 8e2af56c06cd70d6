"""Cuts against scipy's Gaussian, membership against a loop, and the histogram's band errors against the
weights themselves.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from bivlm.quantizers.steps.gaussian_bands import MagnitudeHistogram, band_of, cut_points, cuts


@settings(deadline=None, max_examples=60)
@given(bands=st.integers(1, 8), salient=st.floats(1e-6, 0.5), mean=st.floats(-2, 2), std=st.floats(0.01, 10))
def test_cuts_are_scipys_quantiles(bands, salient, mean, std):
    expected = [
        max(0.0, mean + std * norm.ppf((1 + k * (1 - salient) / bands) / 2)) for k in range(1, bands + 1)
    ]
    found = cuts(
        bands, salient, torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("std", [1.0, 0.0])
def test_without_a_tail_the_last_band_has_no_end(std):
    found = cuts(
        3, 0.0, torch.tensor([0.5, -0.5], dtype=torch.float64), torch.tensor([std, std], dtype=torch.float64)
    )
    assert found.shape == (2, 3)
    assert found[:, -1].tolist() == [np.inf, np.inf]
    assert found[:, :-1].isfinite().all()


@pytest.mark.parametrize("salient", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("bands", [1, 2, 5, 8])
def test_bands_are_equally_probable(bands, salient):
    edges = np.concatenate([[0.0], cut_points(bands, salient).numpy()])
    inside = np.diff(2 * norm.cdf(edges) - 1)
    np.testing.assert_allclose(inside, (1 - salient) / bands, rtol=1e-12)


def test_an_edge_belongs_to_the_band_below_it():
    edges = torch.tensor([0.0, 1.0, 2.0])
    assert band_of(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5]), edges).tolist() == [0, 1, 1, 2, 2, 3]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), bands=st.integers(1, 5))
def test_histogram_has_the_bands_errors(seed, bands):
    magnitude = torch.randn(30, 20, generator=torch.Generator().manual_seed(seed)).abs().bfloat16().float()
    edges = magnitude.reshape(-1)[:bands].sort().values.double()
    values = magnitude.double().numpy().ravel()
    expected, lower = 0.0, -1.0
    for upper in edges.tolist():
        inside = values[(values > lower) & (values <= upper)]
        expected += ((inside - inside.mean()) ** 2).sum() if len(inside) else 0.0
        lower = upper
    assert MagnitudeHistogram(magnitude).band_error(edges) == pytest.approx(expected, rel=1e-9, abs=1e-9)
