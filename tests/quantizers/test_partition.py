"""The fast searches against the slow ones: every candidate binarized anew over the whole block."""

import numpy as np
import pytest
import torch

from bivlm.quantizers.partition import QUANTILES, _column_errors, _threshold_errors, magnitude_threshold, salient_columns
from bivlm.quantizers.residual import binarize

BLOCKS = {
    "gaussian": lambda random: torch.randn(70, 128, generator=random),
    "squares": lambda random: torch.randn(50, 100, generator=random).square(),
    "narrow": lambda random: torch.randn(9, 7, generator=random),
    "strong columns": lambda random: torch.randn(40, 64, generator=random) * torch.logspace(-1, 1, 64),
}


@pytest.fixture(params=BLOCKS, ids=str)
def block(request):
    return BLOCKS[request.param](torch.Generator().manual_seed(0))


def falling(block):
    return block.abs().sum(0).argsort(descending=True, stable=True)


def slow_column_errors(block, candidates):
    errors = []
    for count in range(1, candidates + 1):
        mask = torch.zeros(block.shape, dtype=torch.bool)
        mask[:, falling(block)[:count]] = True
        q = torch.where(mask, binarize(block, mask, 2).values(), binarize(block, ~mask, 2).values())
        errors.append(float((block - q).double().square().sum()))
    return torch.tensor(errors, dtype=torch.float64)


def slow_threshold_errors(block, salient, thresholds):
    errors = []
    for threshold in thresholds.tolist():
        large, small = (block.abs() >= threshold) & ~salient, (block.abs() < threshold) & ~salient
        q = torch.where(small, binarize(block, small, 1).values(), torch.where(large, binarize(block, large, 1).values(), block))
        errors.append(float((block - q).double().square().sum()))
    return torch.tensor(errors, dtype=torch.float64)


def test_errors_of_all_counts_of_salient_columns(block):
    candidates = min(49, block.shape[1] - 1)
    rank = torch.empty(block.shape[1], dtype=torch.int64)
    rank[falling(block)] = torch.arange(block.shape[1])
    expected = slow_column_errors(block, candidates)
    torch.testing.assert_close(_column_errors(block, rank, candidates), expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_the_best_count_is_taken(block):
    salient = salient_columns(block, 49)
    best = 1 + int(slow_column_errors(block, min(49, block.shape[1] - 1)).argmin())
    assert int(salient.sum()) == best
    assert set(salient.nonzero()[:, 0].tolist()) == set(falling(block)[:best].tolist())


def test_errors_of_all_thresholds_and_the_best_one(block):
    salient = salient_columns(block, 49)
    flat = torch.where(salient, 0.0, block).abs().reshape(-1).numpy()
    thresholds = torch.from_numpy(np.quantile(flat, QUANTILES).astype(np.float32))
    expected = slow_threshold_errors(block, salient, thresholds)
    found = _threshold_errors(block[:, ~salient].double(), thresholds.double())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    assert magnitude_threshold(block, salient) == float(thresholds[int(expected.argmin())])


def test_one_column_has_no_salient_ones_and_no_rest_no_threshold():
    assert not salient_columns(torch.randn(4, 1), 49).any()
    assert magnitude_threshold(torch.randn(4, 3), torch.ones(3, dtype=torch.bool)) == 0.0


def test_a_constant_block_is_no_trouble():
    block = torch.full((5, 12), 0.3)
    salient = salient_columns(block, 49)
    assert 1 <= int(salient.sum()) <= 11
    assert 0.0 <= magnitude_threshold(block, salient) <= 0.31
