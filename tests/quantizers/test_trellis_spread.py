"""The row scale before the search, fitted to each weight."""

import pytest
import torch

from bivlm.quantizers.trellis import SPREADS, Trellis
from bivlm.types import LinearStats


def weight_and_inputs(falls):
    """A weight (64, 96), and inputs whose energy falls by `falls` powers of ten over directions of their
    own.
    """
    random = torch.Generator().manual_seed(1)
    turn, _ = torch.linalg.qr(torch.randn(96, 96, generator=random))
    stats = LinearStats({"text": (turn * torch.logspace(0, -falls, 96)) @ turn.T}, {"text": 2000})
    return 0.05 * torch.randn(64, 96, generator=random), stats


def error(w, stats, spread):
    """The layer error, not divided by the weight's own energy."""
    q = Trellis(bits=1.0, spread=spread).quantize(w, stats)
    difference = (w - q.dequantize()).double()
    return float(((difference @ stats.hessian.double()) * difference).sum())


def test_a_fitted_spread_is_the_best_of_those_tried_for_the_rows_that_tell():
    w, stats = weight_and_inputs(3)
    tried = [error(w, stats, spread) for spread in SPREADS]
    assert min(tried) < 0.97 * tried[0]  # inputs with much in common: much is fed back
    assert error(w, stats, "fitted") == min(tried)


@pytest.mark.parametrize("chosen", [{"bits": 4.0}, {"bits": 1.0, "feedback": False}])
def test_a_spread_that_need_not_change_is_not_changed(chosen):
    w, stats = weight_and_inputs(1)
    fixed, fitted = (Trellis(**chosen, spread=spread).quantize(w, stats) for spread in (SPREADS[0], "fitted"))
    assert torch.equal(fixed.codes, fitted.codes)
    assert torch.equal(fixed.row_scale, fitted.row_scale)
