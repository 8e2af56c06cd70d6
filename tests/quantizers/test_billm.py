"""BiLLM: equal to the public implementation on stored cases, and what its settings promise."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from bivlm.quantizers.billm import BiLLM
from bivlm.types import LinearStats

PUBLIC = load_file(Path(__file__).parents[1] / "golden" / "billm_reference.safetensors")
WEIGHT, STATS = PUBLIC["weight"], LinearStats({"text": PUBLIC["hessian"]}, {"text": 384})
TO_THE_LETTER = {"scale_bits": 32, "error_rule": "diagonal", "refit": False}
CASES = {
    "hessian": {"salience": "hessian"},
    "magnitude": {"salience": "magnitude"},
    "magnitude_rtn": {"salience": "magnitude", "compensate": False},
}


def loss(q):
    difference = WEIGHT - q.dequantize()
    return float(
        ((difference @ STATS.hessian) * difference).sum() / ((WEIGHT @ STATS.hessian) * WEIGHT).sum()
    )


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_implementation(case):
    q = BiLLM(**TO_THE_LETTER, **CASES[case]).quantize(WEIGHT, STATS)
    assert float((q.dequantize() - PUBLIC[f"{case}.quantized"]).abs().max()) <= 1e-6


@pytest.mark.parametrize("salience", ["hessian", "magnitude"])
def test_exact_feedback_and_refit_each_lower_the_error(salience):
    diagonal, exact = (
        BiLLM(salience=salience, error_rule=rule).quantize(WEIGHT, STATS) for rule in ("diagonal", "exact")
    )
    refitted = BiLLM(salience=salience, refit=True).quantize(WEIGHT, STATS)
    assert loss(refitted) < loss(exact) < loss(diagonal)


def test_eight_bit_numbers_cost_little_and_save_what_they_should():
    sixteen, eight = (BiLLM(scale_bits=bits).quantize(WEIGHT, STATS) for bits in (16, 8))
    assert loss(eight) < 1.02 * loss(sixteen)
    saved = sixteen.encode().nbytes - eight.encode().nbytes
    groups, numbers, rows = 2, 7, 64
    assert (
        saved == rows * groups * numbers - 2 * rows * numbers
    )  # a byte for each number, against a float16 unit for each row and kind


def test_true_bits_are_far_above_the_claimed_ones():
    method = BiLLM()
    q = method.quantize(WEIGHT, STATS)
    claimed, true = method.paper_bits(q), q.encode().bits_per_weight()
    assert claimed is not None
    assert 1.0 < claimed < 1.4
    assert 2.8 < true < 3.2


def test_most_salient_is_a_bound():
    q = BiLLM(most_salient=3).quantize(WEIGHT, STATS)
    assert all(1 <= int(block.sum()) <= 3 for block in q.salient.split(128))


def test_without_data_where_none_is_needed():
    method = BiLLM(compensate=False)
    assert not method.needs_data
    assert method.quantize(WEIGHT, None) == method.quantize(WEIGHT, STATS)
