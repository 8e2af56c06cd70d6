"""AWQ: column scales follow the inputs, are stored, and lower the error of the layer."""

import pytest
import torch

from bivlm.quantizers.awq import AWQ
from bivlm.quantizers.rtn import RTN
from bivlm.types import LinearStats


def case(strong=30.0):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=random)
    x[:, :3] *= strong
    return 0.05 * torch.randn(48, 64, generator=random), LinearStats({"text": x.T @ x / 300}, {"text": 300})


def loss(w, q, stats):
    difference = w - q.dequantize()
    return float(((difference @ stats.hessian) * difference).sum())


@pytest.mark.parametrize("settings", [{}, {"zero_point": "code"}, {"clip": False}, {"alphabet": 3}])
def test_columns_with_strong_inputs_are_kept_better_than_by_rounding(settings):
    w, stats = case()
    assert loss(w, AWQ(**settings).quantize(w, stats), stats) < 0.6 * loss(
        w, RTN(**settings).quantize(w, None), stats
    )


def test_strong_columns_are_scaled_up_so_that_their_stored_scale_is_small():
    w, stats = case()
    scale = AWQ().quantize(w, stats).column_scale.float()
    assert float(scale[:3].max()) < float(scale[3:].min())


def test_one_step_scales_nothing():
    w, stats = case()
    assert bool((AWQ(steps=1).quantize(w, stats).column_scale == 1).all())


def test_inputs_that_are_alike_need_no_scales():
    w, _ = case()
    even = LinearStats({"text": torch.eye(64)}, {"text": 1})
    scale = AWQ().quantize(w, even).column_scale
    torch.testing.assert_close(scale, torch.ones_like(scale))


def test_a_column_without_input_is_left_as_it_is():
    w, stats = case()
    moment = stats.hessian.clone()
    moment[10], moment[:, 10] = 0, 0
    q = AWQ().quantize(w, LinearStats({"text": moment}, {"text": 300}))
    assert float(q.column_scale[10]) == 1.0
    assert bool(q.dequantize().isfinite().all())


def test_the_column_scales_are_counted():
    w, stats = case()
    q = AWQ(group_size=64).quantize(w, stats)
    assert q.encode().nbytes == RTN(group_size=64).quantize(w, None).encode().nbytes + 2 * 64
