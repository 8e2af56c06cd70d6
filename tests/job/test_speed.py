"""The cost of a method is a sum of three terms, recovered from what its probes take."""

from __future__ import annotations

import pytest
import torch

from bivlm.job import speed
from bivlm.quantizers import quantizer_named


def test_the_three_terms_are_recovered(monkeypatch):
    truth = speed.Cost(weight=3e-7, row=2e-10, factor=4e-11)
    monkeypatch.setattr(speed, "_probe", lambda quantizer, shape: truth.seconds(shape))
    found = speed.cost_of(quantizer_named("sign")())
    for term in ("weight", "row", "factor"):
        assert getattr(found, term) == pytest.approx(getattr(truth, term), rel=1e-6)
    assert found.seconds((4096, 11008)) == pytest.approx(truth.seconds((4096, 11008)))


def test_no_term_is_negative_where_the_probes_are_noise(monkeypatch):
    times = iter([1.0, 0.5, 0.4, 0.9])
    monkeypatch.setattr(speed, "_probe", lambda quantizer, shape: next(times))
    found = speed.cost_of(quantizer_named("sign")())
    assert min(found.weight, found.row, found.factor) >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_machine_has_a_speed(dtype):
    found = speed.speed_of(dtype)
    assert min(found.passes, found.moments) > 1e8
    assert 0 < found.call < 1
