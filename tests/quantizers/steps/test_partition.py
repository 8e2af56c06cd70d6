"""The fast searches against their definition: every candidate binarized anew over the whole block."""

import pytest
import torch

import partition_by_definition as definition
from bivlm.quantizers.steps.partition import (
    _column_errors,
    _threshold_errors,
    magnitude_threshold,
    salient_columns,
)

BLOCKS = {
    "gaussian": lambda random: torch.randn(70, 128, generator=random),
    "squares": lambda random: torch.randn(50, 100, generator=random).square(),
    "narrow": lambda random: torch.randn(9, 7, generator=random),
    "strong columns": lambda random: torch.randn(40, 64, generator=random) * torch.logspace(-1, 1, 64),
}


@pytest.fixture(params=BLOCKS, ids=str)
def block(request):
    return BLOCKS[request.param](torch.Generator().manual_seed(0))


def test_errors_of_all_counts_of_salient_columns(block):
    candidates = min(49, block.shape[1] - 1)
    rank = definition.falling_columns(block).argsort()
    expected = definition.column_errors(block, candidates)
    torch.testing.assert_close(
        _column_errors(block, rank, candidates), expected, rtol=1e-4, atol=1e-5 * float(expected.max())
    )


def test_errors_of_all_thresholds(block):
    salient = salient_columns(block, 49)
    tried = definition.thresholds(block, salient)
    expected = definition.threshold_errors(block, salient, tried)
    found = _threshold_errors(block[:, ~salient].double(), tried.double())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_the_best_are_taken(block):
    salient = salient_columns(block, 49)
    assert torch.equal(salient, definition.salient_columns(block, 49))
    assert magnitude_threshold(block, salient) == definition.magnitude_threshold(block, salient)


def test_pieces_of_rows_change_nothing(block, monkeypatch):
    salient = salient_columns(block, 49)
    threshold = magnitude_threshold(block, salient)
    monkeypatch.setattr("bivlm.quantizers.steps.partition.ROWS", 16)
    assert torch.equal(salient_columns(block, 49), salient)
    assert magnitude_threshold(block, salient) == threshold


def test_one_column_has_no_salient_ones_and_no_rest_no_threshold():
    for searches in (definition.salient_columns, salient_columns):
        assert not searches(torch.randn(4, 1), 49).any()
    for searches in (definition.magnitude_threshold, magnitude_threshold):
        assert searches(torch.randn(4, 3), torch.ones(3, dtype=torch.bool)) == 0.0


def test_a_constant_block_is_no_trouble():
    block = torch.full((5, 12), 0.3)
    salient = salient_columns(block, 49)
    assert 1 <= int(salient.sum()) <= 11
    assert 0.0 <= magnitude_threshold(block, salient) <= 0.31
