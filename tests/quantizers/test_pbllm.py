"""PB-LLM: which weights are kept, how well, and what they cost."""

import pytest
import torch

from bivlm.quantizers.pbllm import PBLLM
from bivlm.types import LinearStats


def case(out=40, columns=96):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(500, columns, generator=random) @ (
        torch.eye(columns) + torch.randn(columns, columns, generator=random) / columns**0.5
    )
    x[:, 5] *= 20
    return 0.05 * torch.randn(out, columns, generator=random), LinearStats(
        {"text": x.T @ x / 500}, {"text": 500}
    )


def loss(w, q, stats):
    difference = w - q.dequantize()
    return float(((difference @ stats.hessian) * difference).sum())


def test_without_data_the_largest_of_each_group_are_kept_in_eight_bits_and_the_others_are_signs():
    w, _ = case()
    q = PBLLM(saliency="magnitude", compensate=False, group_size=32, scale_bits=32).quantize(w, None)
    back = q.dequantize()
    kept = torch.zeros(w.shape, dtype=torch.bool)
    kept.view(-1)[q.tail_positions] = True
    for start in range(0, 96, 32):
        group, inside = w[:, start : start + 32], kept[:, start : start + 32]
        assert int(inside.sum()) == round(0.1 * group.numel())
        assert float(group[inside].abs().min()) >= float(group[~inside].abs().max())
        scale = torch.where(inside, 0.0, group.abs()).sum(1) / (~inside).sum(1)
        torch.testing.assert_close(
            back[:, start : start + 32][~inside], (scale[:, None] * group.sign())[~inside]
        )
    step = (w * kept).amax(1) - (w * kept).amin(1)
    assert bool(((w - back).abs()[kept] <= (0.55 / 254 * step)[:, None].expand_as(w)[kept] + 1e-6).all())


def test_hessian_saliency_keeps_the_column_with_massive_inputs():
    w, stats = case()
    shares = {}
    for saliency in ("magnitude", "hessian"):
        q = PBLLM(saliency=saliency, compensate=False).quantize(w, stats)
        shares[saliency] = float((q.tail_positions % 96 == 5).float().sum()) / 40
    assert shares["hessian"] > 0.8
    assert shares["magnitude"] < 0.4


@pytest.mark.parametrize(
    "settings", [{}, {"act_order": False, "group_size": 32}, {"mean": True}, {"saliency": "magnitude"}]
)
def test_feedback_and_refit_each_lower_the_error_of_the_layer(settings):
    w, stats = case()
    plain, fed, refitted = (
        loss(w, PBLLM(**settings, compensate=compensate, refit=refit).quantize(w, stats), stats)
        for compensate, refit in ((False, False), (True, False), (True, True))
    )
    assert refitted <= fed < plain


def test_a_larger_share_costs_bits_and_lowers_the_error():
    w, stats = case()
    found = [PBLLM(salient=share).quantize(w, stats) for share in (0.0, 0.05, 0.1, 0.3)]
    losses, bits = [loss(w, q, stats) for q in found], [q.encode().bits_per_weight() for q in found]
    assert losses == sorted(losses, reverse=True)
    assert bits == sorted(bits)


def test_the_paper_leaves_out_positions_and_scales():
    w, stats = case(out=256, columns=256)
    stats = LinearStats({"text": torch.eye(256)}, {"text": 1})
    w = 0.05 * torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    method = PBLLM(salient=0.1, group_size=128)
    q = method.quantize(w, stats)
    assert method.paper_bits(q) == pytest.approx(1.7, abs=0.01)
    positions = 0.1 * 4.8  # a Rice-coded gap of ten places
    assert q.encode().bits_per_weight() == pytest.approx(
        1 + 0.1 * 7 + positions + 16 / 128 + 32 / 256, abs=0.03
    )
