"""Masked residual binarization against a loop over rows, and against what the public implementation of BiLLM
gave.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bivlm.quantizers.steps.residual import binarize

PUBLIC = Path(__file__).parents[2] / "golden" / "billm_reference.safetensors"


def by_hand(row, mask, order):
    values, total = row[mask], np.zeros(int(mask.sum()))
    for _ in range(order):
        if not len(values):
            break
        rest = values - total
        mean = rest.mean()
        total = total + mean + np.abs(rest - mean).mean() * np.sign(rest - mean)
    expanded = np.zeros_like(row)
    expanded[mask] = total
    return expanded


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_the_definition(order):
    random = torch.Generator().manual_seed(order)
    w, mask = torch.randn(20, 33, generator=random), torch.rand(20, 33, generator=random) < 0.4
    mask[3], mask[4] = False, True
    mask[5], mask[5, 7] = False, True
    found = torch.where(mask, binarize(w, mask, order).values(), 0.0)
    expected = np.stack(
        [by_hand(row, used, order) for row, used in zip(w.double().numpy(), mask.numpy(), strict=True)]
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_equals_the_public_implementation(order):
    stored = load_file(PUBLIC)
    mask = stored["residual.mask"]
    found = torch.where(mask, binarize(stored["residual.x"], mask, order).values(), 0.0)
    torch.testing.assert_close(found, stored[f"residual.order{order}"], rtol=0, atol=1e-6)


def test_arguments_are_left_alone():
    w, mask = torch.randn(3, 5), torch.rand(3, 5) < 0.5
    before = w.clone(), mask.clone()
    binarize(w, mask, 2)
    assert torch.equal(w, before[0])
    assert torch.equal(mask, before[1])
