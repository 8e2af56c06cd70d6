"""Calibration measures against their definitions, written out pair by pair and question by question."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.eval.confidence import AnswerConfidence, answer_confidences, calibration

CONFIDENCE = st.floats(0, 1, allow_subnormal=False)
PAIRS = st.lists(st.tuples(CONFIDENCE, st.sampled_from([0.0, 0.3, 1.0])), min_size=2, max_size=60)


def drawn(n: int, seed: int, *, honest: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, all different, and right or wrong, as often as they say where `honest`."""
    rng = np.random.default_rng(seed)
    confidences = rng.random(n)
    return confidences, (rng.random(n) < (confidences if honest else 0.5)).astype(float)


# ---- the confidence of an answer


def test_probabilities_of_an_answer_by_hand():
    logs = torch.tensor([[0.5, 0.8, 0.1], [0.9, 0.25, 0.2], [0.5, math.nan, 0.5], [0.5, math.nan, 0.5]]).log()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    first, second, broken, ended = answer_confidences(logs, mask)
    assert (first.whole, first.mean, first.first) == pytest.approx((0.4, 0.65, 0.5))
    assert (second.whole, second.mean, second.first) == pytest.approx((0.045, 0.45, 0.9))
    assert broken is None
    assert ended == AnswerConfidence(*[pytest.approx(0.5)] * 3)
    assert answer_confidences(torch.zeros(1, 2), torch.zeros(1, 2).bool()) == [None]


# ---- against definitions


@pytest.mark.parametrize(("n", "seed"), [(150, 0), (1000, 1), (15, 2), (30, 3)])
def test_expected_calibration_error_in_bins_of_equal_mass(n: int, seed: int):
    confidences, scores = drawn(n, seed)
    expected = 0.0
    order = np.argsort(confidences)
    for chosen in np.split(order[: n // 15 * 15], 15):
        expected += len(chosen) * abs(scores[chosen].mean() - confidences[chosen].mean())
    found = calibration(confidences, scores)
    if n % 15 == 0:
        assert found.ece == pytest.approx(expected / n)
    assert sum(one.n for one in found.bins) == n
    assert max(one.n for one in found.bins) - min(one.n for one in found.bins) <= 1
    assert [one.confidence for one in found.bins] == sorted(one.confidence for one in found.bins)


@given(PAIRS)
@settings(deadline=None, max_examples=80)
def test_brier_aurc_and_auroc_by_their_definitions(pairs: list[tuple[float, float]]):
    confidences, scores = map(list, zip(*pairs, strict=True))
    found, n = calibration(confidences, scores), len(pairs)
    assert found.brier == pytest.approx(sum((c - s) ** 2 for c, s in pairs) / n)
    won = [
        1.0 if right > wrong else 0.5 if right == wrong else 0.0
        for right, s in pairs if s >= 0.5
        for wrong, t in pairs if t < 0.5
    ]  # fmt: skip
    assert found.auroc == (pytest.approx(sum(won) / len(won)) if won else None)
    # the risk at every coverage, in the mean over all orders of answers of one confidence
    risks = []
    for k in range(1, n + 1):
        threshold = sorted(confidences, reverse=True)[k - 1]
        above = [1 - s for c, s in pairs if c > threshold]
        tied = [1 - s for c, s in pairs if c == threshold]
        risks.append((sum(above) + (k - len(above)) * sum(tied) / len(tied)) / k)
    assert found.aurc == pytest.approx(sum(risks) / n, abs=1e-12)


@given(PAIRS, st.randoms())
@settings(deadline=None, max_examples=50)
def test_the_order_of_the_questions_does_not_matter(pairs: list[tuple[float, float]], random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    first, second = (calibration(*map(list, zip(*some, strict=True))) for some in (pairs, shuffled))
    assert second.ece == pytest.approx(first.ece)
    assert second.aurc == pytest.approx(first.aurc)
    assert [one.n for one in first.bins] == [one.n for one in second.bins]


def test_uncertainty_and_error_rise_together_in_an_honest_model():
    confidences, scores = drawn(2000, 4)
    found = calibration(confidences, scores)
    order = np.argsort(1 - confidences)
    uncertainty = [(1 - confidences)[chosen].mean() for chosen in np.split(order, 10)]
    error = [(1 - scores)[chosen].mean() for chosen in np.split(order, 10)]
    ranks = [np.argsort(np.argsort(values)) for values in (uncertainty, error)]
    assert found.uncertainty_correlation == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found.uncertainty_r2 == pytest.approx(np.corrcoef(uncertainty, error)[0, 1] ** 2)
    assert found.uncertainty_r2 > 0.95
    assert found.uncertainty_correlation > 0.95
    assert found.ece < 0.04
    assert found.auroc == pytest.approx(5 / 6, abs=0.03), "of confidences that are uniform and honest"
    assert found.aurc < calibration(1 - confidences, scores).aurc


def test_a_model_that_does_not_know_when_it_is_wrong():
    found = calibration(*drawn(2000, 5, honest=False))
    assert found.auroc == pytest.approx(0.5, abs=0.04)
    assert found.aurc == pytest.approx(0.5, abs=0.05)
    assert found.ece > 0.2


# ---- degenerate inputs


def test_saturated_confidences_are_one_bin():
    found = calibration([1.0] * 100, [1.0] * 90 + [0.0] * 10)
    assert [(one.n, one.confidence, one.score) for one in found.bins] == [(100, 1.0, 0.9)]
    assert (found.ece, found.brier, found.aurc) == pytest.approx((0.1, 0.1, 0.1))
    assert (found.auroc, found.uncertainty_correlation, found.uncertainty_r2) == (0.5, None, None)


def test_what_is_not_defined_is_none():
    right = calibration([0.2, 0.9, 0.4], [1.0, 1.0, 1.0])
    assert (right.auroc, right.uncertainty_correlation, right.uncertainty_r2) == (None, None, None)
    assert right.aurc == 0.0
    one = calibration([0.7], [1.0])
    assert (one.n, one.ece, one.brier, one.aurc) == (1, pytest.approx(0.3), pytest.approx(0.09), 0.0)


@pytest.mark.parametrize(
    ("c", "s"), [([], []), ([0.5], [0.5, 1.0]), ([math.nan], [1.0]), ([1.0], [math.inf])]
)
def test_what_are_no_questions_is_refused(c: list[float], s: list[float]):
    with pytest.raises(ValueError, match=r"no values|no pairs|not finite"):
        calibration(c, s)
