"""KL divergence and agreement against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bivlm.eval.divergence import Fidelity, compare


def drawn(tokens: int, vocabulary: int, seed: int, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(tokens, vocabulary, generator=torch.Generator().manual_seed(seed))


def oracle(reference: Tensor, logits: Tensor) -> tuple[float, int]:
    """Sum of KL over the rows, and the number of rows with the same argmax, one entry at a time."""
    total, agreed = 0.0, 0
    for row_p, row_q in zip(reference.double().numpy(), logits.double().numpy(), strict=True):
        p, q = np.exp(row_p - row_p.max()), np.exp(row_q - row_q.max())
        p, q = p / p.sum(), q / q.sum()
        total += sum(float(a) * float(np.log(a / b)) for a, b in zip(p, q, strict=True))
        agreed += int(np.argmax(row_p) == np.argmax(row_q))
    return total, agreed


@given(tokens=st.integers(1, 150), vocabulary=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_sums_are_those_of_the_definition(tokens: int, vocabulary: int, seed: int):
    reference, logits = drawn(tokens, vocabulary, seed), drawn(tokens, vocabulary, seed + 100)
    found = compare(reference, logits)
    kl_sum, agreed = oracle(reference, logits)
    assert found.kl_sum == pytest.approx(kl_sum, rel=1e-5, abs=1e-5)
    assert (found.tokens, found.agreed, found.non_finite) == (tokens, agreed, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_float32(dtype: torch.dtype):
    reference, logits = drawn(40, 300, 1).to(dtype), drawn(40, 300, 2).to(dtype)
    kl_sum, agreed = oracle(reference, logits)
    found = compare(reference, logits)
    assert found.kl_sum == pytest.approx(kl_sum, rel=1e-5)
    assert found.agreed == agreed


def test_by_hand():
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = 3/4 log 3/2 + 1/4 log 1/2, and not that of (q || p)."""
    found = compare(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 1.0]]).log())
    assert found.kl == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), abs=1e-7)


def test_logits_are_their_own_twin_up_to_a_constant():
    logits = drawn(100, 500, 3)
    assert compare(logits, logits.clone()).kl == 0.0
    assert abs(compare(logits, logits + 5.0).kl) < 1e-6
    assert compare(logits, logits + 5.0).top1_agreement == 1.0


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("whose", ["reference", "model"])
def test_tokens_that_are_not_finite_are_counted_and_do_not_agree(broken: float, whose: str):
    reference, logits = drawn(80, 6, 4), drawn(80, 6, 4)
    (reference if whose == "reference" else logits)[[0, 70], 3] = broken
    found = compare(reference, logits)
    assert (found.tokens, found.non_finite, found.agreed) == (80, 2, 78)
    assert found.kl == 0.0
    assert found.top1_agreement == 78 / 80


def test_nothing_finite_has_no_kl():
    found = compare(drawn(3, 4, 5), torch.full((3, 4), torch.nan))
    assert (found.kl, found.top1_agreement, found.non_finite) == (None, 0.0, 3)
    assert (Fidelity().kl, Fidelity().top1_agreement) == (None, None)


def test_batches_add_up_to_the_whole():
    reference, logits = drawn(90, 7, 6), drawn(90, 7, 7)
    logits[5, 0] = torch.nan
    whole, parts = (
        compare(reference, logits),
        compare(reference[:31], logits[:31]) + compare(reference[31:], logits[31:]),
    )
    assert parts.kl == pytest.approx(whole.kl, rel=1e-6)
    assert (parts.tokens, parts.agreed, parts.non_finite) == (whole.tokens, whole.agreed, whole.non_finite)


def test_the_logits_are_left_alone():
    reference, logits = drawn(5, 4, 8), drawn(5, 4, 9)
    before = reference.clone(), logits.clone()
    compare(reference, logits)
    assert torch.equal(reference, before[0])
    assert torch.equal(logits, before[1])
