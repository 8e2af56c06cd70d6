"""The error-feedback loop against a plain GPTQ that goes column by column through the whole inverse, in
float64.
"""

import logging

import numpy as np
import pytest
import torch

from bivlm.quantizers.steps import compensation as module
from bivlm.quantizers.steps.compensation import column_by_column, compensate, inverse_corner, moment_factor


def second_moment(width: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Correlated inputs of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=generator) @ (
        torch.eye(width) + 0.3 * torch.randn(width, width, generator=generator)
    )
    return x.T @ x / tokens


def grid(w: torch.Tensor) -> torch.Tensor:
    return (w * 4).round() / 4


def nearest_column(column: torch.Tensor, index: int) -> torch.Tensor:
    return grid(column)


def weight_of(out: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed))


def gptq(w: torch.Tensor, hessian: torch.Tensor, damping: float) -> np.ndarray:
    """Optimal brain quantization in fixed order: after each column the inverse of what is left is formed
    anew, without any factor.
    """
    w, h = w.double().numpy().copy(), hessian.double().numpy().copy()
    h += damping * h.diagonal().mean() * np.eye(len(h))
    quantized = np.zeros_like(w)
    for j in range(w.shape[1]):
        inverse = np.linalg.inv(h[j:, j:])
        quantized[:, j] = np.round(w[:, j] * 4) / 4
        w[:, j + 1 :] -= np.outer((w[:, j] - quantized[:, j]) / inverse[0, 0], inverse[0, 1:])
    return quantized


def trace_error(w, quantized, hessian) -> float:
    difference = (w - quantized).double()
    return float(((difference @ hessian.double()) * difference).sum())


@pytest.mark.parametrize("block_size", [1, 5, 16, 48, 1000])
def test_column_by_column_is_gptq(block_size):
    w, hessian = weight_of(12, 48), second_moment(48, 400)
    found = compensate(w, hessian, column_by_column(nearest_column), block_size=block_size, damping=0.01)
    assert float(np.abs(found.numpy() - gptq(w, hessian, 0.01)).max()) <= 1e-4


def test_block_size_does_not_change_what_the_columns_are_shown():
    w, hessian, shown = weight_of(8, 40), second_moment(40, 300), {}
    for block_size in (1, 7, 40):
        columns = shown[block_size] = {}

        def remember(column, index, columns=columns):
            columns[index] = column.clone()
            return grid(column)

        compensate(w, hessian, column_by_column(remember), block_size=block_size, damping=0.01)
        assert sorted(columns) == list(range(40))
    for j in range(40):
        torch.testing.assert_close(shown[1][j], shown[40][j], rtol=0, atol=1e-4)
        torch.testing.assert_close(shown[7][j], shown[40][j], rtol=0, atol=1e-4)


def test_feedback_lowers_the_error_it_is_made_for():
    w, hessian = weight_of(32, 48), second_moment(48, 400)
    found = compensate(w, hessian, column_by_column(nearest_column), block_size=16, damping=0.01)
    assert trace_error(w, found, hessian) < 0.7 * trace_error(w, grid(w), hessian)


def test_identity_means_no_compensation():
    w = weight_of(6, 20)
    found = compensate(w, torch.eye(20), column_by_column(nearest_column), block_size=8, damping=0.01)
    torch.testing.assert_close(found, grid(w), rtol=0, atol=0)


def test_whole_blocks_go_through_one_solve():
    """A callback that decides a block at once: its error must reach the columns to the right as in the
    minimum over them.
    """
    w, hessian = weight_of(4, 12), second_moment(12, 200)
    seen = []

    def whole_block(block, u, start):
        seen.append(block.clone())
        return grid(block)

    compensate(w, hessian, whole_block, block_size=6, damping=0.01)
    h = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(12)
    error = (w[:, :6] - grid(w[:, :6])).double()
    expected = w[:, 6:].double() + error @ h[:6, 6:] @ torch.linalg.inv(h[6:, 6:])
    torch.testing.assert_close(seen[1].double(), expected, rtol=0, atol=1e-4)


def test_arguments_are_left_alone():
    w, hessian = weight_of(4, 12), second_moment(12, 200)
    before = w.clone(), hessian.clone()
    compensate(w, hessian, column_by_column(nearest_column), block_size=5, damping=0.01)
    assert torch.equal(w, before[0])
    assert torch.equal(hessian, before[1])


def test_factor_is_that_of_the_damped_moment_and_its_corners_invert():
    hessian = second_moment(16, 100)
    factor = moment_factor(hessian, 0.05)
    damped = hessian.double() + 0.05 * hessian.diagonal().mean() * torch.eye(16)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.double() @ factor.double().T, damped, rtol=1e-5, atol=1e-6)
    u = torch.linalg.inv(factor.double())
    torch.testing.assert_close(u.T @ u, torch.linalg.inv(damped), rtol=1e-5, atol=1e-6)
    for block in (slice(0, 16), slice(3, 8), slice(15, 16)):
        torch.testing.assert_close(inverse_corner(factor, block), u[block, block].float())


def test_dead_column_neither_breaks_nor_moves_the_others():
    w, hessian = weight_of(6, 20), second_moment(20, 200)
    hessian[3], hessian[:, 3] = 0, 0
    found = compensate(w, hessian, column_by_column(nearest_column), block_size=8, damping=0.01)
    alive = [j for j in range(20) if j != 3]
    without = compensate(
        w[:, alive],
        hessian[alive][:, alive],
        column_by_column(nearest_column),
        block_size=8,
        damping=0.01 * 19 / 20,
    )
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[:, 3], grid(w[:, 3]))
    assert (
        float((found[:, alive] != without).double().mean()) < 0.1
    )  # the damping is a share of the mean over all columns, nearly the same


def test_fewer_tokens_than_columns_works():
    w, hessian = weight_of(6, 32), second_moment(32, 10)
    found = compensate(w, hessian, column_by_column(nearest_column), block_size=8, damping=0.01)
    assert bool(found.isfinite().all())
    assert trace_error(w, found, hessian) < trace_error(w, grid(w), hessian)


def test_damping_is_raised_and_logged(caplog):
    """A moment with a negative eigenvalue, as rounding leaves it: -0.05 of the mean diagonal."""
    vector = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(0)), dim=0)
    hessian = torch.eye(16) - 1.05 * torch.outer(vector, vector)
    with caplog.at_level(logging.WARNING, logger="bivlm.quantizers.steps.compensation"):
        factor = moment_factor(hessian, 0.01)
    assert bool(factor.isfinite().all())
    assert "not positive definite at damping 0.01; used 0.1" in caplog.text


def test_good_moment_logs_nothing(caplog):
    moment_factor(second_moment(16, 100), 0.01)
    assert caplog.text == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_moment_that_is_not_finite_is_refused(value):
    hessian = second_moment(8, 50)
    hessian[2, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        moment_factor(hessian, 0.01)


def test_moment_of_zeros_is_refused():
    with pytest.raises(ValueError, match="zero on all calibration samples"):
        moment_factor(torch.zeros(4, 4), 0.01)


def test_indefinite_moment_is_refused():
    hessian = torch.tensor([[1.0, 5.0], [5.0, 1.0]])
    with pytest.raises(ValueError, match="not positive definite at damping 1"):
        moment_factor(hessian, 0.01)


@pytest.mark.parametrize("at_once", [1, 20, 48, 1000])
def test_what_is_taken_up_is_the_same_however_many_columns_take_it_up_at_once(at_once, monkeypatch):
    monkeypatch.setattr(module, "TAKEN_UP", at_once)
    w, hessian = weight_of(12, 48), second_moment(48, 400)
    found = compensate(w, hessian, column_by_column(nearest_column), block_size=5, damping=0.01)
    assert float(np.abs(found.numpy() - gptq(w, hessian, 0.01)).max()) <= 1e-4


def steep_moment(width: int, tokens: int) -> torch.Tensor:
    """Inputs whose strength falls with the square of their number, in mixed columns: fewer tokens than
    columns.
    """
    generator = torch.Generator().manual_seed(3)
    strength = torch.arange(1, tokens + 1).float() ** -2
    directions = torch.linalg.qr(torch.randn(width, tokens, generator=generator)).Q
    return (directions * strength) @ directions.T


def test_a_factor_in_float32_loses_nothing_where_it_is_taken(monkeypatch):
    w, hessian = weight_of(32, 600), steep_moment(600, 400)
    found = []
    for single in (1000, 0):
        monkeypatch.setattr(module, "SINGLE", single)
        quantized = compensate(w, hessian, column_by_column(nearest_column), block_size=128, damping=0.01)
        found.append(trace_error(w, quantized, hessian))
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[1] < 0.5 * trace_error(w, grid(w), hessian)


@pytest.mark.parametrize(("damping", "suffices"), [(0.01, True), (1e-6, False)])
def test_float32_is_taken_where_its_rounding_is_not_felt(damping, suffices, monkeypatch):
    hessian = steep_moment(300, 200)
    expected = moment_factor(hessian, damping)
    monkeypatch.setattr(module, "SINGLE", 0)
    assert (module._single_factor(hessian, damping, None) is not None) is suffices
    found = moment_factor(hessian, damping)
    assert torch.equal(found, expected) is not suffices
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=0, atol=1e-6)
    pivots, exact = found.diagonal().square(), expected.diagonal().square()
    torch.testing.assert_close(pivots, exact, rtol=module.ROUNDING, atol=0)
