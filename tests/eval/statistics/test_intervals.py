"""The interval of a mean score against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.eval.statistics.intervals import mean_interval


@pytest.mark.parametrize(("right", "wrong"), [(0, 5), (5, 0), (1, 0), (9, 1), (640, 360)])
def test_wilson_s_interval_by_its_formula(right: int, wrong: int):
    n, z = right + wrong, 1.959963984540054
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    assert mean_interval([1.0] * right + [0.0] * wrong) == pytest.approx(
        (centre - half, centre + half), abs=1e-9
    )


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_large_sample():
    scores = np.random.default_rng(0).choice([0.0, 0.3, 0.6, 0.9, 1.0], size=4000)
    half = 1.96 * scores.std() / math.sqrt(len(scores))
    assert mean_interval(list(scores)) == pytest.approx(
        (scores.mean() - half, scores.mean() + half), abs=0.1 * half
    )
    assert mean_interval(list(scores), seed=3) == mean_interval(list(scores), seed=3)
    assert mean_interval(list(scores), seed=3) != mean_interval(list(scores), seed=4)


@given(st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_the_interval_holds_the_mean(scores: list[float]):
    low, high = mean_interval(scores)
    assert 0.0 <= low <= np.mean(scores) + 1e-12
    assert np.mean(scores) - 1e-12 <= high <= 1.0


def test_one_fractional_score_says_nothing():
    assert mean_interval([0.3]) == (0.0, 1.0)


def test_no_scores_have_no_interval():
    with pytest.raises(ValueError, match="no scores"):
        mean_interval([])
