"""Free levels with feedback: the importance of columns, and codes without anything to feed back."""

import torch

from bivlm.quantizers.steps.compensation import moment_factor
from bivlm.quantizers.steps.level_feedback import feedback_codes, levels_weight, loss_importance


def test_the_costliest_column_counts_one_and_the_others_by_the_power():
    factor = torch.tensor([[2.0, 0.1, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 0.5]])
    order = torch.tensor([2, 0, 1])
    assert loss_importance(factor, order, 2.0).tolist() == [0.25, 0.0625, 1.0]
    assert loss_importance(factor, order, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_far_apart_costs_do_not_overflow():
    factor = torch.diag(torch.tensor([1e20, 1.0, 1e-20]))
    found = loss_importance(factor, torch.arange(3), 8.0)
    assert found.tolist() == [1.0, 0.0, 0.0]


def test_without_correlation_every_weight_goes_to_its_nearest_level():
    w = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    levels = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)).sort(-1).values
    order = torch.arange(12).flip(0)
    codes, quantized = feedback_codes(w, levels, torch.eye(12), order, 5, 4)
    expected = (w[..., None] - levels[:, torch.arange(12) // 5]).abs().argmin(-1)
    assert torch.equal(codes, expected)
    back = levels[:, torch.arange(12) // 5].gather(-1, codes[..., None])[..., 0]
    assert torch.equal(quantized, back)
    weight = levels_weight(levels.half(), codes, 5, 3)
    near = levels.half().float()[:, torch.arange(12) // 5].gather(-1, codes[..., None])[..., 0]
    assert torch.equal(weight.dequantize(), 8 * near)


def test_kept_weights_take_up_the_errors_of_the_others():
    """They come last in the order here, so the feedback of all other columns arrives at them."""
    random = torch.Generator().manual_seed(2)
    x = torch.randn(200, 12, generator=random) @ torch.randn(12, 12, generator=random)
    w, hessian = torch.randn(6, 12, generator=random), x.T @ x / 200
    kept = torch.zeros(6, 12, dtype=torch.bool)
    kept[:, 9:] = True
    levels = torch.linspace(-2, 2, 4).expand(6, 1, 4)
    factor, order = moment_factor(hessian, 0.01), torch.arange(12)
    codes, quantized = feedback_codes(w, levels, factor, order, 12, 5, kept)
    weight = levels_weight(levels.half(), codes, 12, 0, kept, quantized)
    assert not codes[kept].any()
    assert weight.tail_values.float().tolist() == quantized[kept].tolist()
    assert float((quantized - w)[kept].abs().min()) > 1e-4
    assert torch.equal(weight.dequantize()[kept], quantized[kept])
    stays = torch.where(kept, w, quantized)

    def loss(q):
        return float((((w - q) @ hessian) * (w - q)).sum())

    assert loss(quantized) < 0.7 * loss(stays)
