"""The steps in one matrix against torch's own."""

import pytest
import torch

from bivlm.quantizers.steps.in_place import (
    BLOCK,
    factor_lower_,
    reverse_,
    rounded_,
    turn_,
)

SIZES = (1, 2, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 37)


def matrix(size):
    return torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))


def moment(size):
    x = matrix(size)
    return x @ x.T / size + torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_factor(size):
    h = moment(size)
    found = h.clone()
    assert factor_lower_(found)
    expected = torch.linalg.cholesky(h)
    torch.testing.assert_close(found, expected)
    assert not found.triu(1).any()


@pytest.mark.parametrize("size", SIZES)
def test_not_positive_definite(size):
    h = moment(size)
    h[-1, -1] = -1.0
    assert not factor_lower_(h)


@pytest.mark.parametrize("size", SIZES)
def test_reverse_and_round(size):
    m = matrix(size)
    found = m.clone()
    reverse_(found)
    assert torch.equal(found, m.flip(0, 1))
    place = found.data_ptr()
    narrow = rounded_(found)
    assert torch.equal(narrow, m.flip(0, 1).float())
    assert narrow.data_ptr() == place


@pytest.mark.parametrize("size", SIZES)
def test_turn(size):
    h, q = moment(size), torch.linalg.qr(matrix(size)).Q
    found = h.clone()
    turn_(found, lambda rows: rows @ q.T.float())
    torch.testing.assert_close(found, q @ h @ q.T, rtol=1e-4, atol=1e-4)
