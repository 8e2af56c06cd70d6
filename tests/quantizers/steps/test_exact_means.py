"""The exact k-means of rows against all partitions, and against the textbook's dynamic programming."""

import itertools

import numpy as np
import pytest
import torch

from bivlm.quantizers.steps import exact_means
from bivlm.quantizers.steps.exact_means import best_levels


def error(w, importance, levels):
    near = (w[..., None] - levels[:, None].double()).abs().amin(-1)
    return (importance * near.square()).sum(1)


def run_error(w, importance):
    mean = (importance * w).sum() / max(importance.sum(), 1e-300)
    return (importance * (w - mean) ** 2).sum()


def least_error_of_all(w, importance, count):
    """The smallest error of all ways to cut a sorted row into `count` runs."""
    order = np.argsort(w)
    w, importance = w[order], importance[order]
    cuts = itertools.combinations_with_replacement(range(len(w) + 1), count - 1)
    return min(
        sum(run_error(w[a:b], importance[a:b]) for a, b in itertools.pairwise([0, *cut, len(w)]))
        for cut in cuts
    )


def least_error(w, importance, count):
    """The same by dynamic programming over all cuts, in O(count n²)."""
    order = np.argsort(w)
    w, importance = w[order], importance[order]
    n = len(w)
    best = [run_error(w[:m], importance[:m]) for m in range(n + 1)]
    for _ in range(count - 1):
        best = [min(best[i] + run_error(w[i:m], importance[i:m]) for i in range(m + 1)) for m in range(n + 1)]
    return best[n]


def case(rows, columns, seed):
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=random, dtype=torch.float64).float()
    return w, torch.rand(rows, columns, generator=random) ** 4


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_no_partition_is_better(columns, count):
    w, importance = case(6, columns, columns)
    importance[0, 0], w[1] = 0.0, w[1].round()  # a weight that does not count, and ties
    found = error(w.double(), importance.double(), best_levels(w, importance, count))
    for row in range(6):
        least = least_error_of_all(w[row].double().numpy(), importance[row].double().numpy(), count)
        assert float(found[row]) == pytest.approx(least, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("count", "columns"), [(2, 60), (4, 45), (8, 60), (16, 40)])
def test_the_textbooks_algorithm_finds_nothing_better(count, columns):
    w, importance = case(4, columns, count)
    w[2] = w[2].mul(2).round()  # many ties
    importance[3, ::2] = 0.0
    levels = best_levels(w, importance, count)
    assert bool((levels.diff(dim=1) >= 0).all())
    found = error(w.double(), importance.double(), levels)
    for row in range(4):
        least = least_error(w[row].double().numpy(), importance[row].double().numpy(), count)
        assert float(found[row]) == pytest.approx(least, rel=1e-5, abs=1e-12)


def test_weights_apart_from_each_other_get_the_levels():
    w = torch.tensor([[5.0, 1.0, 1.2, 4.8, -3.0, 1.1]])
    importance = torch.tensor([[1.0, 1.0, 1.0, 3.0, 1.0, 1.0]])
    assert best_levels(w, importance, 3)[0].tolist() == pytest.approx([-3.0, 1.1, 4.85])


def test_the_importance_of_a_row_may_have_any_scale_and_be_absent():
    w, importance = case(3, 50, 1)
    tiny = best_levels(w, importance * 1e-30, 4)
    torch.testing.assert_close(tiny, best_levels(w, importance, 4), rtol=1e-4, atol=1e-5)
    none = torch.zeros_like(importance)
    assert torch.equal(best_levels(w, none, 4), best_levels(w, torch.ones_like(importance), 4))


def test_more_levels_than_weights_repeat():
    levels = best_levels(torch.tensor([[2.0, -1.0], [3.0, 3.0]]), torch.ones(2, 2), 4)
    assert sorted(levels[0].unique().tolist()) == [-1.0, 2.0]
    assert levels[1].unique().tolist() == [3.0]


def test_rows_that_are_solved_together_do_not_show(monkeypatch):
    w, importance = case(7, 30, 2)
    whole = best_levels(w, importance, 4)
    monkeypatch.setattr(exact_means, "_AT_ONCE", 60)
    assert torch.equal(best_levels(w, importance, 4), whole)
