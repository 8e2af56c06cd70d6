"""Evenly spaced tokens: how even they are, how many, and how images share them; and the lot, which is even
only on average.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.pruning import Candidates
from bivlm.pruning.dropping.geometry import token_places
from bivlm.pruning.grid import GridPruner, evenly_spaced, shared_out
from bivlm.pruning.random import RandomPruner


def discrepancy(kept, rows, columns):
    """The largest gap, over all boxes that begin in the corner, between their share of the area and their
    share of what is kept.
    """
    worst = 0.0
    for bottom in range(1, rows + 1):
        for right in range(1, columns + 1):
            inside = ((kept[:, 0] < bottom) & (kept[:, 1] < right)).float().mean()
            worst = max(worst, abs(float(inside) - bottom * right / (rows * columns)))
    return worst


@pytest.mark.parametrize("shape", [(12, 12), (6, 24), (24, 6), (7, 11)])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_grid_is_far_more_even_than_the_first_tokens_and_than_a_lot(shape, share):
    places = token_places([shape])
    k = round(share * len(places))
    even = discrepancy(places[evenly_spaced(places[:, 1:], k), 1:], *shape)
    assert even < 0.3 * discrepancy(places[:k, 1:], *shape)
    lots = [RandomPruner(seed=seed).select(Candidates(places, None, places, 0), k) for seed in range(5)]
    assert even < sum(discrepancy(places[lot, 1:], *shape) for lot in lots) / 5
    assert even <= 1.5 / k**0.5


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=3), st.data())
@settings(deadline=None, max_examples=80)
def test_exactly_k_no_two_alike_and_every_image_gets_its_share(shapes, data):
    places = token_places(shapes)
    sizes = [rows * columns for rows, columns in shapes]
    k = data.draw(st.integers(1, len(places)))
    kept = GridPruner().select(Candidates(torch.zeros(len(places), 1), None, places, 0), k)
    assert sorted(set(kept.tolist())) == kept.tolist()
    assert len(kept) == k
    found = torch.bincount(places[kept, 0].long(), minlength=len(sizes)).tolist()
    assert found == shared_out(sizes, k)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.data())
@settings(deadline=None, max_examples=100)
def test_shares_sum_to_k_and_are_proportional(sizes, data):
    k = data.draw(st.integers(0, sum(sizes)))
    shares = shared_out(sizes, k)
    assert sum(shares) == k
    for share, size in zip(shares, sizes, strict=True):
        assert 0 <= share <= size
        assert abs(share - k * size / sum(sizes)) < 1


@given(st.integers(2, 200), st.data())
@settings(deadline=None, max_examples=60)
def test_in_a_row_no_stretch_without_a_kept_token_is_long(count, data):
    """At most about two steps of count / k, at the ends as well; half a token is lost by rounding on either
    side.
    """
    k = data.draw(st.integers(1, count // 2))
    kept = sorted(evenly_spaced(token_places([(1, count)])[:, 1:], k).tolist())
    stretches = [
        kept[0] + 0.5,
        *(later - earlier for earlier, later in pairwise(kept)),
        count - kept[-1] - 0.5,
    ]
    assert max(stretches) <= 2 * count / k + 1


def test_one_token_of_a_grid_is_in_its_middle():
    assert token_places([(5, 5)])[evenly_spaced(token_places([(5, 5)])[:, 1:], 1)].tolist() == [[0, 2, 2]]


def test_a_lot_is_fair_and_leaves_the_global_generator_alone():
    places = token_places([(2, 5)])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hits = torch.zeros(10)
    for seed in range(400):
        hits[RandomPruner().select(Candidates(places, None, places, seed), 3)] += 1
    assert torch.equal(torch.rand(3), expected)
    assert int(hits.sum()) == 1200
    assert 80 <= int(hits.min()) <= int(hits.max()) <= 160, "120 each, with a standard deviation of 9"


def test_a_lot_does_not_look_at_the_tokens():
    one, other = (
        Candidates(torch.full((30, 2), value), None, token_places([(5, 6)]), 9) for value in (0.0, 3.0)
    )
    assert torch.equal(RandomPruner(seed=1).select(one, 9), RandomPruner(seed=1).select(other, 9))
