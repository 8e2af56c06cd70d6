"""Drift and neighbours against counting by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from bivlm.errors import InputError
from bivlm.eval.embedding.closeness import closeness

VECTORS = normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(1)), dim=1)
EVERYTHING = [tuple(range(8))] * 4  # four queries, eight documents


def test_a_model_is_as_close_as_can_be_to_itself():
    found = closeness(VECTORS, VECTORS, 4, EVERYTHING)
    assert found.drift == pytest.approx(0, abs=1e-6)
    assert found.largest_drift == pytest.approx(0, abs=1e-6)
    assert (found.neighbours, found.agreement, found.agreement_interval) == (4, 1.0, (1.0, 1.0))


def test_the_mean_drift_and_the_shared_neighbours():
    other = normalize(VECTORS + 0.5 * torch.randn(12, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    found = closeness(other, VECTORS, 4, EVERYTHING, k=3)
    moved = [1 - float(a @ b) for a, b in zip(other, VECTORS, strict=True)]
    assert found.drift == pytest.approx(sum(moved) / 12, abs=1e-6)
    assert found.largest_drift == pytest.approx(max(moved), abs=1e-6)
    assert found.drift_interval[0] < found.drift < found.drift_interval[1]
    shares = []
    for query in range(4):
        near = [
            set(sorted(range(8), key=lambda n: -float(all_[4 + n] @ all_[query]))[:3])
            for all_ in (other, VECTORS)
        ]
        shares.append(len(near[0] & near[1]) / 3)
    assert found.agreement == pytest.approx(sum(shares) / 4)
    assert 0 < found.agreement < 1


def test_items_alone_are_each_others_neighbours():
    assert closeness(VECTORS, VECTORS, 0, ()).neighbours == 5
    assert closeness(VECTORS[:2], VECTORS[:2], 0, ()).agreement is None


def test_vectors_that_are_not_finite_are_as_far_as_can_be():
    broken = VECTORS.clone()
    broken[5] = torch.nan
    assert closeness(broken, VECTORS, 4, EVERYTHING).largest_drift == 2
    with pytest.raises(InputError, match="the reference's vectors are NaN"):
        closeness(VECTORS, broken, 4, EVERYTHING)


def test_other_dimensions_are_refused():
    with pytest.raises(InputError, match="8 and 4 dimensions"):
        closeness(VECTORS[:, :4], VECTORS, 4, EVERYTHING)
