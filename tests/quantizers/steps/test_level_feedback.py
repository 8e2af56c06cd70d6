"""Free levels with feedback: the importance of columns, and codes without anything to feed back."""

import torch

from bivlm.quantizers.steps.level_feedback import feedback_codes, levels_weight, loss_importance


def test_the_costliest_column_counts_one_and_the_others_by_the_power():
    u = torch.tensor([[0.5, 0.1, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 2.0]])
    order = torch.tensor([2, 0, 1])
    assert loss_importance(u, order, 2.0).tolist() == [0.25, 0.0625, 1.0]
    assert loss_importance(u, order, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_far_apart_costs_do_not_overflow():
    u = torch.diag(torch.tensor([1e-20, 1.0, 1e20]))
    found = loss_importance(u, torch.arange(3), 8.0)
    assert found.tolist() == [1.0, 0.0, 0.0]


def test_without_correlation_every_weight_goes_to_its_nearest_level():
    w = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    levels = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)).sort(-1).values
    order = torch.arange(12).flip(0)
    codes = feedback_codes(w, levels, torch.eye(12), order, 5, 4)
    expected = (w[..., None] - levels[:, torch.arange(12) // 5]).abs().argmin(-1)
    assert torch.equal(codes, expected)
    weight = levels_weight(levels.half(), codes, 5, 3)
    near = levels.half().float()[:, torch.arange(12) // 5].gather(-1, codes[..., None])[..., 0]
    assert torch.equal(weight.dequantize(), 8 * near)
