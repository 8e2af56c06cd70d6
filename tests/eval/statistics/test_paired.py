"""Paired tests against formulas written out, scipy's own test, and simulated models of which the truth is
known.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bivlm.eval.statistics import paired
from bivlm.eval.statistics.paired import (
    corrected,
    geometric_kl_difference,
    holm,
    kl_difference,
    score_difference,
)


def mcnemar(gained: int, lost: int) -> float:
    """Twice the binomial tail, by sums."""
    n, k = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


@pytest.mark.parametrize(
    ("gained", "lost", "both"), [(0, 0, 5), (1, 0, 0), (0, 5, 3), (6, 0, 0), (9, 2, 50), (8, 8, 1)]
)
def test_right_or_wrong_is_mcnemar_s_test(gained: int, lost: int, both: int):
    first, second = [0.0] * gained + [1.0] * (lost + both), [1.0] * gained + [0.0] * lost + [1.0] * both
    found = score_difference(first, second, range(len(first)))
    assert found.test == "McNemar"
    assert found.p == pytest.approx(mcnemar(gained, lost))
    assert found.difference == pytest.approx((gained - lost) / len(first))
    expected = "not told apart" if found.p >= 0.05 else "better" if gained > lost else "worse"
    assert found.verdict == expected


def test_six_questions_on_one_side_are_the_fewest_that_tell():
    assert score_difference([0.0] * 5, [1.0] * 5, range(5)).verdict == "not told apart"
    assert score_difference([0.0] * 6, [1.0] * 6, range(6)).verdict == "better"
    assert kl_difference([1.0] * 5, [2.0] * 5, [1] * 5, range(5)).verdict == "not told apart"
    assert kl_difference([1.0] * 6, [2.0] * 6, [1] * 6, range(6)).verdict == "worse"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
def test_few_flips_are_all_of_them(pairs: list[tuple[int, int]]):
    first, second = [a / 2 for a, _ in pairs], [b / 2 for _, b in pairs]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    flipped = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
               for signs in product((1, -1), repeat=len(pairs))]  # fmt: skip
    expected = np.mean([value >= abs(sum(differences)) - 1e-9 for value in flipped])
    found = score_difference(first, second, range(len(pairs)))
    assert found.p == pytest.approx(expected)


def test_many_flips_agree_with_scipy_s():
    rng = np.random.default_rng(0)
    before, after = rng.lognormal(size=90), rng.lognormal(0.35, size=90)
    found = kl_difference(before, after, [1] * 90, range(90))
    other = stats.permutation_test(
        (after - before,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=4999,
        vectorized=True, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert 0.001 < found.p < 0.5
    assert found.p == pytest.approx(other.pvalue, abs=0.015)


def test_binary_scores_give_mcnemar_s_p_by_flips_too(monkeypatch: pytest.MonkeyPatch):
    first, second = [0.0] * 9 + [1.0] * 3, [1.0] * 9 + [0.0] * 3
    by_formula = score_difference(first, second, range(12)).p
    monkeypatch.setattr(paired, "_mcnemar", lambda before, after: None)
    assert score_difference(first, second, range(12)).p == pytest.approx(by_formula)


def test_questions_about_one_image_go_together():
    """Twelve questions on one side, of two images: two flips, not twelve."""
    first, second, images = [0.0] * 12, [1.0] * 12, ["a"] * 6 + ["b"] * 6
    found = score_difference(first, second, images)
    assert (found.test, found.p, found.verdict) == ("sign flips", 0.5, "not told apart")
    assert score_difference(first, second, range(12)).verdict == "better"
    one = score_difference(first, second, ["a"] * 12)
    assert (one.p, one.interval, one.verdict) == (1.0, None, "not told apart")


def test_divergences_by_hand():
    found = kl_difference([1.0, 2.0], [0.5, 3.0], [3, 1], ["a", "b"])
    assert found.difference == pytest.approx((3 * -0.5 + 1 * 1.0) / 4)
    halved = geometric_kl_difference([0.2, 1e-3, 4.0] * 4, [0.1, 5e-4, 2.0] * 4, range(12))
    assert halved.difference == pytest.approx(math.log(0.5))
    assert halved.interval == pytest.approx((math.log(0.5),) * 2)
    assert (halved.p, halved.verdict, halved.higher_is_better) == (pytest.approx(2 / 2**12), "better", False)
    rounding = geometric_kl_difference([0.0, 1e-12], [-1e-9, 0.0], range(2))
    assert (rounding.difference, rounding.p) == (0.0, 1.0)


def test_models_that_are_the_same_are_not_told_apart():
    same = score_difference([1.0, 0.0, 0.3], [1.0, 0.0, 0.3], range(3))
    assert (same.difference, same.interval, same.p, same.verdict) == (0.0, (0.0, 0.0), 1.0, "not told apart")


def test_results_are_the_same_every_time():
    rng = np.random.default_rng(3)
    before, after = rng.random(50), rng.random(50)
    assert score_difference(before, after, range(50)) == score_difference(before, after, range(50))


@pytest.mark.parametrize(
    ("first", "second", "clusters"),
    [([1.0, math.nan], [1.0, 1.0], [0, 1]), ([1.0], [1.0, 1.0], [0]), ([1.0], [1.0], [0, 1]), ([], [], [])],
    ids=["NaN", "other questions", "clusters", "none"],
)
def test_what_are_no_pairs_is_refused(first, second, clusters):
    with pytest.raises(ValueError, match=r"no pairs|not finite|no values"):
        score_difference(first, second, clusters)


# ---- several comparisons at once


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None, max_examples=80)
def test_holm_rejects_what_its_steps_reject(ps: list[float]):
    """From the smallest p on: rejected while p < 0.05 / (hypotheses left); the first that is not ends it."""
    rejected: set[int] = set()
    for step, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[index] * (len(ps) - step) >= 0.05:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(ps)) if p < 0.05} == rejected


def test_the_verdicts_hold_for_all_rows_together():
    first, weak, strong = [0.0] * 12, [1.0] * 6 + [0.0] * 6, [1.0] * 12
    alone = [score_difference(first, other, range(12)) for other in (weak, strong)]
    assert [difference.verdict for difference in alone] == ["better", "better"]
    together = corrected([*alone, score_difference(first, [1.0] * 6 + [0.0] * 6, range(12)), alone[0]])
    assert [difference.verdict for difference in together] == [
        "not told apart",
        "better",
        *["not told apart"] * 2,
    ]
    assert together[0].p == pytest.approx(3 * alone[0].p)
    assert together[0].difference == alone[0].difference


# ---- simulated models


def lognormal_pairs(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Divergences of two models that are alike, as wide as at one bit."""
    common = rng.normal(-7, 2, n)
    return np.exp(common + rng.normal(0, 1.5, n)), np.exp(common + rng.normal(0, 1.5, n))


@pytest.mark.parametrize("geometric", [False, True])
def test_models_that_are_alike_are_told_apart_in_five_of_a_hundred_cases(geometric: bool, monkeypatch):
    monkeypatch.setattr(paired, "FLIPS", 1000)
    monkeypatch.setattr(paired, "_interval", lambda sums, counts: None)
    rng, false = np.random.default_rng(0), 0
    for _ in range(500):
        first, second = lognormal_pairs(rng, 60)
        found = (
            geometric_kl_difference(first, second, range(60))
            if geometric
            else kl_difference(first, second, [1] * 60, range(60))
        )
        false += found.verdict != "not told apart"
    assert 0.025 < false / 500 < 0.08


def test_a_model_that_halves_every_divergence_is_found_by_the_geometric_mean(monkeypatch):
    """With 60 questions the arithmetic mean seldom sees it: a few questions decide it."""
    monkeypatch.setattr(paired, "FLIPS", 500)
    monkeypatch.setattr(paired, "_interval", lambda sums, counts: None)
    rng, found = np.random.default_rng(1), {"geometric": 0, "arithmetic": 0}
    for _ in range(100):
        first, second = lognormal_pairs(rng, 60)
        found["geometric"] += geometric_kl_difference(first, second / 2, range(60)).verdict == "better"
        found["arithmetic"] += kl_difference(first, second / 2, [1] * 60, range(60)).verdict == "better"
    assert found["geometric"] > 60
    assert found["arithmetic"] < found["geometric"] / 2


@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_of_score_differences_hold_the_truth(clustered: bool, monkeypatch: pytest.MonkeyPatch):
    """95 % of them, over simulated evaluations; also where four questions share an image and its
    difficulty.
    """
    monkeypatch.setattr(paired, "RESAMPLES", 400)
    rng, hits, runs = np.random.default_rng(2), 0, 250
    images = np.repeat(np.arange(120), 4 if clustered else 1)
    for _ in range(runs):
        gain = rng.choice([0.0, 0.2, -0.1], size=120)[images] + 0.05
        drawn = rng.random(len(images))
        first, second = (drawn < 0.5).astype(float), (drawn < 0.5 + gain).astype(float)
        low, high = score_difference(first, second, images.tolist()).interval
        hits += low <= 0.05 + 0.1 / 3 <= high
    assert 0.90 < hits / runs < 0.985


@pytest.mark.slow
def test_percentiles_hold_no_difference_more_often_than_bca():
    """Where the models are alike and divergences as wide as at one bit: about 91 % and 77 %, instead of 95
    %.
    """
    rng, hits = np.random.default_rng(1), {"percentile": 0, "BCa": 0}
    for seed in range(400):
        draw = np.random.default_rng(seed)
        differences = draw.lognormal(-7, 2.5, 120) - draw.lognormal(-7, 2.5, 120)
        for method in hits:
            found = stats.bootstrap(
                (differences,), np.mean, n_resamples=1999, method=method, batch=500, rng=rng
            ).confidence_interval
            hits[method] += found.low <= 0 <= found.high
    assert hits["percentile"] / 400 == pytest.approx(0.91, abs=0.02)
    assert hits["BCa"] / 400 == pytest.approx(0.77, abs=0.02)
