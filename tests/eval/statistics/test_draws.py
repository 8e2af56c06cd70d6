"""Numbers over calibration draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bivlm.eval.statistics.draws import over_draws, spread


def test_the_spread_by_hand():
    found = spread([0.2, 0.5, 0.8])
    assert (found.mean, found.low, found.high, found.deviation) == pytest.approx((0.5, 0.2, 0.8, 0.3))
    assert spread([0.4]).deviation is None


def test_a_difference_holds_if_it_has_one_sign():
    assert over_draws([1, 2, 3], [2, 2.5, 4]).holds
    assert over_draws([1, 2, 3], [0.5, 1, 2]).holds
    assert not over_draws([1, 2, 3], [2, 1, 4]).holds
    assert not over_draws([1, 2, 3], [2, 3, 3]).holds, "a draw without a difference"
    assert not over_draws([1, 1], [1, 1]).holds


def test_student_s_test_over_draws():
    first, second = [0.0136, 0.0212, 0.0437], [0.0480, 0.0039, 0.0053]
    found = over_draws(first, second)
    d = np.subtract(second, first)
    t = d.mean() / (d.std(ddof=1) / math.sqrt(3))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 2))
    assert found.differences == pytest.approx(tuple(d))
    assert not found.holds


def test_a_model_without_a_draw_is_compared_with_all():
    assert over_draws([1.0], [2.0, 3.0, 4.0]).differences == (1.0, 2.0, 3.0)
    assert over_draws([2.0, 3.0], [1.0]).differences == (-1.0, -2.0)


def test_one_draw_or_equal_differences_have_no_p():
    assert over_draws([1.0], [2.0]).p is None
    assert over_draws([1.0, 2.0], [2.0, 3.0]).p is None


@pytest.mark.parametrize(
    ("first", "second"), [([1.0, 2.0], [1.0, 2.0, 3.0]), ([math.nan], [1.0]), ([], [1.0])]
)
def test_what_cannot_be_paired_is_refused(first: list[float], second: list[float]):
    with pytest.raises(ValueError, match=r"no pairs|not finite|no values"):
        over_draws(first, second)
