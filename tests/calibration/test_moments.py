"""Sums of products against the plain product, whichever half is summed."""

import pytest
import torch

from bivlm.calibration.moments import BLOCK, WIDE, add_products, fill_lower_


def inputs(columns, tokens=7):
    return torch.randn(tokens, columns, generator=torch.Generator().manual_seed(columns))


@pytest.mark.parametrize("columns", [3, WIDE, WIDE + 1, 3 * BLOCK, 3 * BLOCK + 5])
def test_a_second_moment_is_the_plain_sum_and_symmetric(columns):
    total, rows = torch.zeros(columns, columns), inputs(columns)
    for part in (rows[:4], rows[4:]):
        add_products(total, part, part, torch.float32)
    fill_lower_(total)
    torch.testing.assert_close(total, rows.T @ rows)
    assert columns <= WIDE or torch.equal(total, total.T)


def test_of_two_different_factors_everything_is_summed():
    columns = WIDE + 3
    total, left, right = torch.zeros(columns, columns), inputs(columns), inputs(columns) + 1
    add_products(total, left, right, torch.float32)
    torch.testing.assert_close(total, left.T @ right)


@pytest.mark.parametrize("columns", [8, WIDE + 1])
def test_numbers_in_bfloat16_are_multiplied_exactly(columns):
    total, rows = torch.zeros(columns, columns), inputs(columns).bfloat16().float()
    add_products(total, rows, rows, torch.bfloat16)
    fill_lower_(total)
    torch.testing.assert_close(total, rows.T @ rows)
    assert torch.get_float32_matmul_precision() == "highest"
