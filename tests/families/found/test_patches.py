"""The orders in which patches become tokens, for sequences that fit and for those that do not."""

from __future__ import annotations

import pytest
import torch

from bivlm.errors import InputError
from bivlm.families.found.patches import PatchTokens, TokenGrids, TowerOutputs

GRIDS = TokenGrids("sizes", 2)
INPUTS = {"sizes": torch.tensor([[1, 2, 4], [2, 2, 2]])}  # one frame of 1 x 2 tokens, two of 1 x 1


def test_grids_come_from_the_inputs():
    assert GRIDS(None, INPUTS) == [(1, 2), (2, 1)]
    assert TokenGrids("sizes", 14)(None, {"sizes": torch.tensor([[28, 42]])}) == [(2, 3)]
    with pytest.raises(InputError, match="the inputs have no sizes"):
        GRIDS(None, {})


@pytest.mark.parametrize(
    ("order", "rows", "patches", "expected"),
    [
        (PatchTokens("tiles", 1, 1), 2, 3, [[-1, 0, 1]] * 2),
        (PatchTokens("tiles", 1, 2), 1, 3, [[-1, -1, 0]]),
        (PatchTokens("tiles", 2, 1), 1, 17, [[-1, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]]),
        (PatchTokens("groups", 2), 1, 8, [[0, 0, 0, 0, 1, 1, 1, 1]]),
        (PatchTokens("images", 2, 0, GRIDS), 1, 16, [[0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]]),
    ],
)
def test_every_patch_has_its_token(order, rows, patches, expected):
    assert order(None, INPUTS, rows, patches).tolist() == expected


@pytest.mark.parametrize(
    ("order", "rows", "patches"),
    [
        (PatchTokens("tiles", 2), 1, 15),
        (PatchTokens("tiles", 2), 1, 9),
        (PatchTokens("tiles", 2, 5), 1, 3),
        (PatchTokens("groups", 2), 1, 6),
        (PatchTokens("groups", 2), 2, 8),
        (PatchTokens("images", 2), 1, 16),
        (PatchTokens("images", 2, 0, GRIDS), 1, 12),
    ],
)
def test_other_sequences_are_refused(order, rows, patches):
    with pytest.raises(InputError, match=f"sequences of {rows} x {patches} patches.*use the site language"):
        order(None, INPUTS, rows, patches)


def test_the_block_that_is_read_is_counted_from_the_end():
    assert TowerOutputs(1)(None, 24) == (23,)
    assert TowerOutputs(2)(None, 3) == (1,)
