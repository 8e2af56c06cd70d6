"""The tables of `trellis`: the stratified code against a loop over its definition, and what makes it a
code.
"""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from bivlm.formats.encoding.trellis_code import FITTED, LARGEST, SPREAD, UNIT, standard_tables, stratified

BITS = (1, 2, 3, 4)
WINDOWS = (8, 12, 16)
every_code = pytest.mark.parametrize(("window", "k"), [(window, k) for window in WINDOWS for k in BITS])


def rank_of(number, window, k):
    """The quantile of one window, in plain integers."""
    low = window - k
    b, q = number >> low, number % (1 << low)
    z = (b + ((q * 0x9E3779B1 % (1 << 32)) >> (32 - k))) % (1 << k)
    x = (q * 0x2C1B3C6D + (z + 1) * 0x297A2D39) % (1 << low)
    x ^= x >> (low + 1) // 2
    x = x * 0x1B56C4E9 % (1 << low)
    x ^= x >> (low + 1) // 2
    return z << low | x


@every_code
def test_levels_are_those_of_the_definition(window, k):
    rank = np.array([rank_of(number, window, k) for number in range(1 << window)])
    level = 32 * SPREAD[k] * norm.ppf((rank + 0.5) / (1 << window))
    assert np.abs(stratified(window, k).numpy() - level).max() < 1e-9
    if window > 8:
        assert standard_tables(window)[k - 1].tolist() == np.clip(np.round(level), -127, 127).tolist()


@every_code
def test_ranks_are_a_permutation(window, k):
    """Every quantile once: read back from the levels by the distribution function."""
    rank = norm.cdf(stratified(window, k).numpy() / (UNIT * SPREAD[k])) * (1 << window) - 0.5
    assert np.abs(rank - rank.round()).max() < 1e-3
    assert sorted(rank.round().astype(int)) == list(range(1 << window))


@every_code
def test_what_can_follow_lies_in_different_parts(window, k):
    """The 2^K windows with the same past take one level of each 2^K-th part of the distribution, in an order
    that changes with the past.
    """
    parts = stratified(window, k).argsort().argsort().view(1 << k, -1) >> (window - k)
    assert torch.equal(parts.sort(0).values, torch.arange(1 << k)[:, None].expand_as(parts))
    assert (
        parts.unique(dim=1).shape[1] >= (1 << k) - 1
    )  # every turn of the parts occurs; of 16 pasts with K = 4 two share one


@pytest.mark.parametrize("window", [12, 16])
@pytest.mark.parametrize("k", BITS)
def test_no_level_is_near_the_boundary_of_two_numbers(window, k):
    """So that every implementation of the inverse of the normal distribution rounds to the same table."""
    levels = stratified(window, k)
    assert float((levels - levels.floor() - 0.5).abs().min()) > 1e-6


@pytest.mark.parametrize("window", WINDOWS)
def test_tables_have_their_type_and_the_scale_of_a_normal_source(window):
    tables = standard_tables(window)
    assert (tables.dtype, tuple(tables.shape)) == (torch.int8, (4, 1 << window))
    assert int(tables.int().abs().max()) <= LARGEST
    for k in BITS:
        levels = tables[k - 1].double() / UNIT
        assert abs(float(levels.mean())) < 0.05
        assert 0.8 < float(levels.square().mean()) ** 0.5 < 1.25


def test_fitted_tables_are_four_of_256_bytes():
    assert [len(bytes.fromhex(table)) for table in FITTED] == [256] * 4
    assert standard_tables(8).view(torch.uint8).flatten().tolist() == list(bytes.fromhex("".join(FITTED)))
