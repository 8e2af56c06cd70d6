"""Means and standard errors: closed forms, the formula written out, and simulated questions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.eval.statistics.means import (
    SMALLEST,
    cluster_numbers,
    geometric_mean,
    standard_error,
    trimmed_mean,
    weighted_mean,
)

VALUES = st.lists(st.floats(0, 10), min_size=2, max_size=12)


def test_means_by_hand():
    assert geometric_mean([1.0, 100.0]) == pytest.approx(10.0)
    assert geometric_mean([1e-4, 0.0, -1e-8]) == pytest.approx((1e-4 * SMALLEST**2) ** (1 / 3))
    assert weighted_mean([1.0, 4.0], [2, 1]) == pytest.approx(2.0)
    assert weighted_mean([1.0, 4.0]) == 2.5
    values = [1000.0, *range(1, 19), -1000.0]
    assert trimmed_mean(values) == pytest.approx(np.mean(range(1, 19))), "one of twenty at either end"
    assert trimmed_mean([1.0, 2.0, 6.0]) == 3.0


@given(VALUES)
@settings(deadline=None, max_examples=50)
def test_questions_about_images_of_their_own_have_the_textbook_s_error(values: list[float]):
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert standard_error(values, range(len(values))) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 3)), min_size=3, max_size=12))
@settings(deadline=None, max_examples=80)
def test_the_clustered_error_is_that_of_the_formula(drawn: list[tuple[float, int]]):
    values, clusters = [value for value, _ in drawn], [cluster for _, cluster in drawn]
    n, mean = len(values), sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1) / n
    for i in range(n):
        for j in range(n):
            if i != j and clusters[i] == clusters[j]:
                variance += (values[i] - mean) * (values[j] - mean) / n**2
    found = standard_error(values, clusters)
    if len(set(clusters)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(math.sqrt(max(variance, 0.0)), abs=1e-6)


def test_the_error_of_repeated_questions_does_not_shrink():
    """Every question four times: the naive error halves, the clustered one stays."""
    values = np.random.default_rng(0).normal(size=200)
    once = standard_error(values, range(200))
    assert standard_error(np.repeat(values, 4), np.repeat(np.arange(200), 4)) == pytest.approx(once, rel=0.01)
    assert standard_error(np.repeat(values, 4), range(800)) == pytest.approx(once / 2, rel=0.01)


def test_the_error_of_simulated_questions_is_their_means_deviation():
    """Images with 1 to 5 questions each and something in common; also weighted by tokens."""
    rng = np.random.default_rng(1)
    means, errors, weighted, weighted_errors = [], [], [], []
    for _ in range(400):
        sizes = rng.integers(1, 6, size=60)
        clusters = np.repeat(np.arange(60), sizes)
        values = rng.normal(size=60)[clusters] + rng.normal(size=len(clusters))
        tokens = rng.integers(1, 5, size=len(clusters))
        means.append(values.mean())
        errors.append(standard_error(values, clusters.tolist()))
        weighted.append(weighted_mean(values, tokens))
        weighted_errors.append(standard_error(values, clusters.tolist(), tokens))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.08)
    assert np.mean(weighted_errors) == pytest.approx(np.std(weighted), rel=0.08)


def test_one_question_or_one_image_has_no_error():
    assert standard_error([0.5], ["a"]) is None
    assert standard_error([0.5, 1.0], ["a", "a"]) is None
    assert standard_error([0.5, 0.5], ["a", "b"]) == 0.0


@pytest.mark.parametrize("function", [geometric_mean, trimmed_mean, weighted_mean])
@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]], ids=str)
def test_what_is_not_finite_is_refused(function, values: list[float]):
    with pytest.raises(ValueError, match=r"no values|not finite"):
        function(values)


def test_clusters_are_numbered_as_they_come():
    assert cluster_numbers(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
