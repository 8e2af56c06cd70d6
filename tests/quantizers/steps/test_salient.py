"""The two fits of the tail: which one is better on Gaussian tails, and what they make of rows without an
entry.
"""

import pytest
import torch
from scipy.stats import norm

from bivlm.quantizers.steps.salient import fit_tail


def gaussian_tail(
    seed: int, out: int = 64, width: int = 512, share: float = 0.02
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and values of the entries of N(0, 1) beyond the cut."""
    w = torch.randn(out, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    positions = (w.abs() > norm.ppf(1 - share / 2)).reshape(-1).nonzero()[:, 0]
    return positions // width, w.reshape(-1)[positions]


def fit(rows, values, out, method, rounds=10):
    return fit_tail(rows, values, out, method, rounds=rounds, alpha=1.4)


@pytest.mark.parametrize("seed", range(5))
def test_lloyd_is_far_better_than_the_letter_on_gaussian_tails(seed):
    rows, values = gaussian_tail(seed)
    plain = float((values - values.sign() * values.abs().mean()).square().sum())
    lloyd, paper = (
        fit(rows, values, 64, "lloyd").error(rows, values),
        fit(rows, values, 64, "paper").error(rows, values),
    )
    assert lloyd < plain < paper
    assert lloyd < paper / 10


def test_lloyd_is_exact_for_four_values():
    rows = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    values = torch.tensor([-2.4, -1.7, 1.7, 2.4, -4.8, -3.4, 3.4, 4.8], dtype=torch.float64)
    assert fit(rows, values, 2, "lloyd", rounds=50).error(rows, values) < 1e-12


@pytest.mark.parametrize("method", ["paper", "lloyd"])
def test_rows_without_an_entry_have_scale_zero(method):
    rows, values = torch.tensor([1, 1, 3]), torch.tensor([2.0, -3.0, 2.5], dtype=torch.float64)
    tail = fit(rows, values, 5, method)
    assert tail.scale[[0, 2, 4]].tolist() == [0, 0, 0]
    assert bool((tail.scale[[1, 3]] > 0).all())


@pytest.mark.parametrize("method", ["paper", "lloyd"])
def test_levels_ascend_and_every_entry_takes_one_of_the_nearest(method):
    rows, values = gaussian_tail(7)
    tail = fit(rows, values, 64, method)
    assert bool((tail.levels.diff() >= 0).all())
    ratio = values / tail.scale[rows]
    if method == "paper":
        ratio = ratio.clamp(-1, 1)
        chosen, best = (
            (tail.levels[tail.codes.long()] - ratio).abs(),
            (tail.levels - ratio[:, None]).abs().amin(1),
        )
        assert float((chosen - best).max()) < 0.05  # the pattern is one refit of the scale behind
    else:
        chosen, best = (
            (tail.levels[tail.codes.long()] - ratio).abs(),
            (tail.levels - ratio[:, None]).abs().amin(1),
        )
        torch.testing.assert_close(chosen, best, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["paper", "lloyd"])
def test_no_entry_and_equal_entries(method):
    nothing = fit(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64), 3, method)
    assert (len(nothing.codes), nothing.scale.tolist()) == (0, [0, 0, 0])
    rows, values = torch.tensor([0, 0, 2]), torch.full((3,), -0.7, dtype=torch.float64)
    tail = fit(rows, values, 3, method)
    assert bool(tail.values(rows).isfinite().all())
    assert bool(tail.scale.isfinite().all())


def test_lloyd_keeps_equal_entries():
    rows, values = torch.tensor([0, 0, 2]), torch.full((3,), -0.7, dtype=torch.float64)
    torch.testing.assert_close(fit(rows, values, 3, "lloyd").values(rows), values)
