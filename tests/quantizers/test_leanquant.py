"""LeanQuant against its public code (tests/golden/seeds), and what its settings promise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bivlm.contracts.quantizer import stats_of, trace_error, weight_of
from bivlm.quantizers import GPTQ, LeanQuant
from bivlm.quantizers.steps.compensation import moment_factor, visiting_order
from bivlm.quantizers.steps.grid import fit_levels
from bivlm.quantizers.steps.level_feedback import feedback_codes, loss_importance
from bivlm.types import LinearStats

PUBLIC = load_file(Path(__file__).parents[1] / "golden" / "seeds" / "leanquant.safetensors")
WEIGHT, HESSIAN = PUBLIC["weight"], PUBLIC["hessian"]
STATS = LinearStats({"text": HESSIAN}, {"text": 256})
CASES = {
    "lean2": LeanQuant(bits=2),
    "lean3": LeanQuant(bits=3),
    "lean3_p2": LeanQuant(bits=3, loss_exponent=2.0),
    "lean3_noact": LeanQuant(bits=3, act_order=False),
}
cases = pytest.mark.parametrize(("name", "method"), CASES.items(), ids=CASES)


def public_codes(name):
    """The levels of the public code, ascending, and the codes of its result."""
    grid = PUBLIC[f"{name}.grid"].sort(-1).values
    return grid, (PUBLIC[f"{name}.dequantized"][..., None] - grid[:, None]).abs().argmin(-1)


def loss(q):
    return trace_error(WEIGHT, q, HESSIAN)


@cases
def test_the_levels_are_those_of_the_public_code(name, method):
    order = visiting_order(HESSIAN, method.act_order)
    factor = moment_factor(HESSIAN[order][:, order], 0.1)
    importance = loss_importance(factor, order, method.loss_exponent)
    levels = fit_levels(WEIGHT, importance, 96, 1 << method.bits, 100, "range")[:, 0]
    torch.testing.assert_close(levels, public_codes(name)[0], rtol=1e-4, atol=1e-7)


@cases
def test_the_codes_are_those_of_the_public_code_on_its_levels(name, method):
    grid, codes = public_codes(name)
    order = visiting_order(HESSIAN, method.act_order)
    factor = moment_factor(HESSIAN[order][:, order], 0.1)
    found, quantized = feedback_codes(WEIGHT, grid[:, None], factor, order, 96, 128)
    assert torch.equal(found, codes)
    assert torch.equal(quantized, grid.gather(1, codes))


@cases
def test_the_result_differs_by_the_rounding_of_the_levels(name, method):
    """The public code rounds its levels to float16 after it has chosen the codes. A weight on the very edge
    of two levels may fall either way, and with it what is fed back.
    """
    q, (_, codes) = method.quantize(WEIGHT, STATS), public_codes(name)
    assert float((q.codes == codes).float().mean()) > 0.995
    public = (WEIGHT - PUBLIC[f"{name}.dequantized"]).double()
    assert loss(q) < 1.01 * float(((public @ HESSIAN.double()) * public).sum())


def test_two_bits_in_rows_of_4096_are_two_bits_and_a_table():
    assert LeanQuant().bits_bound((4096, 4096)) == pytest.approx(2 + 4 * 16 / 4096, abs=1e-5)
    assert LeanQuant(bits=3).bits_bound((4096, 4096)) == pytest.approx(3 + 8 * 16 / 4096, abs=1e-5)


def test_gptq_with_the_same_weight_of_its_levels_is_leanquant_from_a_better_start():
    settings = {"group_size": 96, "loss_exponent": 3.0, "damping": 0.05, "refit": True}
    lean = LeanQuant(start="search", **settings).quantize(WEIGHT, STATS)
    gptq = GPTQ(grid="lloyd", grid_weight="loss", **settings).quantize(WEIGHT, STATS)
    assert lean.dequantize().sub(gptq.dequantize()).abs().max() < 0.02
    assert loss(gptq) == pytest.approx(loss(lean), rel=0.05)


def test_the_refit_lowers_the_error():
    assert loss(replace(LeanQuant(), refit=True).quantize(WEIGHT, STATS)) < loss(
        LeanQuant().quantize(WEIGHT, STATS)
    )


@pytest.mark.parametrize("seed", range(3))
def test_levels_weighted_by_the_loss_beat_even_ones_after_feedback(seed):
    w, stats = weight_of((64, 256), seed), stats_of(256, seed)
    even, weighted = (
        trace_error(w, LeanQuant(loss_exponent=exponent, damping=0.01).quantize(w, stats), stats.hessian)
        for exponent in (0.0, 2.0)
    )
    assert weighted < 0.97 * even


@pytest.mark.parametrize("act_order", [True, False])
def test_even_grids_can_be_weighted_by_the_loss_too(act_order):
    inputs = GPTQ(group_size=32, act_order=act_order)
    by_loss = replace(inputs, grid_weight="loss")
    assert loss(by_loss.quantize(WEIGHT, STATS)) < 1.1 * loss(inputs.quantize(WEIGHT, STATS))
    assert by_loss.quantize(WEIGHT, STATS) != inputs.quantize(WEIGHT, STATS)
