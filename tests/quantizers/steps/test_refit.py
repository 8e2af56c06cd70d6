"""The refit against ordinary least squares, row by row, in numpy."""

import numpy as np
import pytest
import torch

from bivlm.quantizers.steps import refit
from bivlm.quantizers.steps.refit import better_rows, expand, refitted


def case(out=6, columns=20, kinds=2, group_size=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    basis = torch.randn(kinds, out, columns, generator=random)
    x = torch.randn(200, columns, generator=random) @ torch.randn(columns, columns, generator=random)
    w = torch.randn(out, columns, generator=random)
    theta = torch.randn(out, -(-columns // group_size), kinds, generator=random)
    return w, theta, basis, x.T @ x / 200, x


def loss(w, theta, basis, hessian, group_size):
    difference = (w - expand(theta, basis, group_size)).double()
    return ((difference @ hessian.double()) * difference).sum(1)


def test_expand_is_the_sum_over_kinds():
    _, theta, basis, _, _ = case()
    q = expand(theta, basis, 8)
    for i, j in [(0, 0), (3, 7), (3, 8), (5, 19)]:
        assert float(q[i, j]) == pytest.approx(
            sum(float(theta[i, j // 8, k] * basis[k, i, j]) for k in range(2)), abs=1e-5
        )


def test_reaches_the_least_squares_solution():
    w, theta, basis, hessian, x = case()
    found = loss(w, refitted(w, theta, basis, hessian, 8), basis, hessian, 8)
    for row in range(len(w)):
        columns = []
        for group in range(3):
            for kind in range(2):
                direction = np.zeros(20)
                direction[8 * group : 8 * group + 8] = basis[kind, row, 8 * group : 8 * group + 8].numpy()
                columns.append(x.double().numpy() @ direction)
        target = x.double().numpy() @ w[row].double().numpy()
        _, residual, _, _ = np.linalg.lstsq(np.stack(columns, 1), target, rcond=None)
        best = residual[0] / 200
        start = float(loss(w, theta, basis, hessian, 8)[row])
        assert best - 1e-6 <= float(found[row]) <= best + 0.01 * (start - best)


def test_an_optimum_stays_and_pieces_of_rows_change_nothing(monkeypatch):
    w, theta, basis, hessian, _ = case()
    first = refitted(w, theta, basis, hessian, 8)
    for _ in range(3):
        first = refitted(w, first, basis, hessian, 8)
    torch.testing.assert_close(refitted(w, first, basis, hessian, 8), first, rtol=1e-3, atol=1e-3)
    whole = refitted(w, theta, basis, hessian, 8)
    monkeypatch.setattr(refit, "NUMBERS", 1)
    torch.testing.assert_close(refitted(w, theta, basis, hessian, 8), whole, rtol=1e-4, atol=1e-4)


def test_numbers_without_a_weight_stay_where_they_are():
    w, theta, basis, hessian, _ = case()
    basis[1, :, 8:16] = 0.0
    found = refitted(w, theta, basis, hessian, 8)
    torch.testing.assert_close(found[:, 1, 1], theta[:, 1, 1], rtol=1e-4, atol=1e-4)


def test_better_rows():
    w, _, _, hessian, _ = case()
    old, new = w + 0.1, w + 0.2
    new[2] = w[2]
    assert better_rows(w, old, new, hessian).tolist() == [False, False, True, False, False, False]
