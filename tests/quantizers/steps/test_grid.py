"""Grids of groups: ranges by hand, the search against brute force, free levels against evenly spaced ones."""

import pytest
import torch

from bivlm.quantizers.steps.grid import fit_grid, fit_levels, grouped, nearest_codes

ZEROS = ["middle", "code", "free"]


def expand(grid, w, group_size):
    columns = torch.arange(w.shape[1]) // group_size
    scale, zero = grid.scale()[:, columns], grid.zero()[:, columns]
    return (nearest_codes(w, scale, zero, grid.alphabet) - zero) * scale


def errors(w, q, importance, group_size):
    return grouped((w - q).square() * importance, group_size).sum(-1)


def test_without_a_search_the_range_is_that_of_the_weights():
    w = torch.tensor([[-1.0, 0.0, 2.0, 0.5, 0.25, 0.75]])
    ones = torch.ones(6)
    free = fit_grid(w, ones, 3, 4, "free", clip=False, scale_bits=32)
    assert free.scale().tolist() == [[1.0, pytest.approx(0.5 / 3)]]
    assert free.zero().tolist() == [[1.0, pytest.approx(-1.5, abs=1e-3)]]
    code = fit_grid(w, ones, 3, 4, "code", clip=False, scale_bits=32)
    assert code.scale().tolist() == [[1.0, 0.25]]
    assert code.zero().tolist() == [[1.0, 0.0]]
    middle = fit_grid(w, ones, 3, 4, "middle", clip=False, scale_bits=32)
    assert middle.scale().tolist() == [[pytest.approx(4 / 3), 0.5]]
    assert middle.zero().tolist() == [[1.5, 1.5]]


@pytest.mark.parametrize("zero", ZEROS)
def test_the_search_never_loses_to_the_range(zero):
    random = torch.Generator().manual_seed(0)
    w, importance = torch.randn(30, 50, generator=random), torch.rand(50, generator=random)
    plain = fit_grid(w, importance, 16, 4, zero, clip=False, scale_bits=32)
    searched = fit_grid(w, importance, 16, 4, zero, clip=True, scale_bits=32)
    slack = 1e-3 if zero == "free" else 1e-6  # a free zero point is rounded to float16
    assert bool(
        (
            errors(w, expand(searched, w, 16), importance, 16)
            <= errors(w, expand(plain, w, 16), importance, 16) * (1 + slack) + 1e-6
        ).all()
    )


@pytest.mark.parametrize("zero", ZEROS)
def test_the_search_is_near_the_best_of_a_fine_one(zero):
    w = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    best = torch.inf
    for scale in torch.linspace(0.05, 2.5, 400).tolist():
        places = {"middle": [1.5], "code": [0.0, 1.0, 2.0, 3.0], "free": torch.linspace(-1, 4, 101).tolist()}[
            zero
        ]
        for place in places:
            q = (nearest_codes(w, torch.tensor(scale), torch.tensor(place), 4) - place) * scale
            best = min(best, float((w - q).square().sum()))
    found = fit_grid(w, torch.ones(64), 64, 4, zero, clip=True, scale_bits=32)
    assert float((w - expand(found, w, 64)).square().sum()) <= 1.03 * best


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_a_group_of_equal_weights_is_exact(zero, value):
    w = torch.full((2, 10), value)
    grid = fit_grid(w, torch.ones(10), 4, 4, zero, clip=True, scale_bits=32)
    torch.testing.assert_close(expand(grid, w, 4), w, rtol=1e-3, atol=0)


def test_what_fills_the_last_group_does_not_count():
    random = torch.Generator().manual_seed(2)
    w = torch.randn(5, 10, generator=random) + 3
    whole = fit_grid(w, torch.ones(10), 8, 4, "free", clip=True, scale_bits=32)
    alone = fit_grid(w[:, 8:], torch.ones(2), 2, 4, "free", clip=True, scale_bits=32)
    torch.testing.assert_close(whole.scale()[:, 1:], alone.scale())
    torch.testing.assert_close(
        fit_levels(w, torch.ones(10), 8, 4)[:, 1:], fit_levels(w[:, 8:], torch.ones(2), 2, 4)
    )


def test_eight_bit_scales_are_those_that_the_codes_were_chosen_with():
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(3))
    grid = fit_grid(w, torch.ones(64), 16, 4, "middle", clip=True, scale_bits=8)
    assert grid.scales.stored.dtype == torch.uint8
    torch.testing.assert_close(
        grid.scale(),
        fit_grid(w, torch.ones(64), 16, 4, "middle", clip=True, scale_bits=32).scale(),
        rtol=0.02,
        atol=0,
    )


def test_free_levels_are_ascending_and_beat_the_evenly_spaced():
    w = torch.randn(40, 128, generator=torch.Generator().manual_seed(4))
    levels = fit_levels(w, torch.ones(128), 128, 4)
    assert bool((levels.diff(dim=-1) >= 0).all())
    nearest = (w[..., None] - levels).abs().amin(-1)
    even = fit_grid(w, torch.ones(128), 128, 4, "free", clip=True, scale_bits=32)
    assert float(nearest.square().sum()) < 0.97 * float((w - expand(even, w, 128)).square().sum())


def test_levels_from_the_range_leave_none_without_weights():
    """Between two clusters far apart the evenly spaced levels have no weights: they move to where they
    help.
    """
    random = torch.Generator().manual_seed(3)
    w = torch.cat([torch.randn(20, 30, generator=random) * 0.1, torch.full((20, 1), 9.0)], 1)
    levels = fit_levels(w, torch.ones(31), 31, 8, 100, "range")
    used = (w[..., None] - levels).abs().argmin(-1)
    assert all(len(row.unique()) == 8 for row in used)
    assert float(levels.amax()) == 9.0


@pytest.mark.parametrize("start", ["search", "range"])
def test_fewer_weights_than_levels_are_kept_as_they_are(start):
    w = torch.tensor([[1.0, 2.0, -3.0, 0.5, 0.5]])
    levels = fit_levels(w, torch.ones(5), 2, 8, 100, start)
    back = levels[:, torch.arange(5) // 2]
    distance = (w[..., None] - back).abs().amin(-1)
    assert levels.isfinite().all()
    assert float(distance.max()) < (1e-6 if start == "range" else 0.2)
