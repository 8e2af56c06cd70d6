"""One vector for each row of hidden states, wherever the padding stands."""

from __future__ import annotations

import pytest
import torch

from bivlm.pooling import drift, pool

HIDDEN = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("rows", "last", "kept"),
    [
        ([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], [4, 4], [[2, 3, 4], [0, 1, 2, 3, 4]]),
        ([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], [2, 4], [[0, 1, 2], [0, 1, 2, 3, 4]]),
    ],
    ids=["left", "right"],
)
def test_padding_on_either_side_is_left_out(rows: list, last: list, kept: list):
    mask = torch.tensor(rows)
    for row in range(2):
        own = HIDDEN[row]
        torch.testing.assert_close(
            pool(HIDDEN, mask, "last")[row], own[last[row]] / own[last[row]].norm(), rtol=1e-6, atol=1e-6
        )
        mean = own[kept[row]].mean(0)
        torch.testing.assert_close(pool(HIDDEN, mask, "mean")[row], mean / mean.norm(), rtol=1e-6, atol=1e-6)


def test_padding_that_is_not_finite_does_no_harm_and_a_token_that_is_not_finite_is_not_hidden():
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    hidden = HIDDEN.clone()
    hidden[0, 0] = torch.nan
    assert torch.equal(pool(hidden, mask, "mean"), pool(HIDDEN, mask, "mean"))
    hidden[1, 4] = torch.inf
    assert not pool(hidden, mask, "last")[1].isfinite().all()
    assert pool(hidden, mask, "last")[0].isfinite().all()


def test_half_precision_is_pooled_in_float32_and_zeros_stay_zeros():
    mask = torch.ones(2, 5)
    assert pool(HIDDEN.bfloat16(), mask).dtype == torch.float32
    assert not pool(torch.zeros(1, 2, 3), torch.ones(1, 2)).any()


def test_drift_is_one_minus_cosine():
    a, b = (
        torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]),
    )
    torch.testing.assert_close(
        drift(a, b), torch.tensor([0.0, 0.4, 2.0], dtype=torch.float64), atol=1e-7, rtol=0
    )
