"""Factors as they are stored: eight bits with a scale for each component, or floats."""

from __future__ import annotations

import pytest
import torch

from bivlm.adapters.lora import Factors
from bivlm.adapters.rounding import check_width, component_bits, factors_from, rounded, stored_tensors
from bivlm.errors import InputError

SHAPE, RANK = (24, 40), 5


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-3, 2, RANK)
    a = torch.randn(RANK, SHAPE[1], generator=generator) * sizes[:, None]
    return Factors(a, torch.randn(SHAPE[0], RANK, generator=generator) / sizes, 2.0)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_bytes_are_those_that_are_counted(bits):
    stored = stored_tensors(drawn(), bits)
    assert 8 * sum(tensor.nbytes for tensor in stored.values()) == RANK * component_bits(SHAPE, bits)


def test_eight_bits_err_by_half_a_step_of_their_component():
    given, found = drawn(), rounded(drawn(), 8)
    for before, after in ((given.a, found.a), (given.b.T, found.b.T)):
        step = before.abs().amax(1, keepdim=True) / 127
        assert bool(((before - after).abs() <= 0.51 * step).all())
    assert found.scale == given.scale


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_rounded_twice_is_rounded_once(bits):
    once = rounded(drawn(), bits)
    twice = rounded(once, bits)
    assert torch.equal(once.a, twice.a)
    assert torch.equal(once.b, twice.b)
    if bits == 32:
        assert torch.equal(once.a, drawn().a)


def test_a_component_of_zeros_stays_zero():
    zero = Factors(torch.zeros(RANK, SHAPE[1]), torch.zeros(SHAPE[0], RANK), 1.0)
    found = factors_from(stored_tensors(zero, 8), 1.0)
    assert not found.a.any()
    assert not found.b.any()


def test_other_widths_are_refused():
    with pytest.raises(InputError, match="bits is 4; the factors of an adapter take 8, 16, 32"):
        check_width(4)
