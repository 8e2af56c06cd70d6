"""MBQ on one linear: visual and text tokens count by their gradients, and its scales are stored."""

from dataclasses import replace

import pytest
import torch

from bivlm.quantizers import MBQ, RTN
from bivlm.types import LinearStats

TOKENS = 400


def case(share, *, loud=20.0):
    """Text tokens are strong in the first three columns, visual ones in the last three, and half of the
    tokens are of each kind.
    """
    random = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, 64, generator=random)
    visual = torch.arange(TOKENS) % 2 == 1
    x[~visual, :3] *= loud
    x[visual, -3:] *= loud
    moments = {"text": x[~visual], "visual": x[visual]}
    stats = LinearStats(
        {name: rows.T @ rows / len(rows) for name, rows in moments.items()},
        {name: len(rows) for name, rows in moments.items()},
        visual_share=share,
        inputs=x,
        inputs_visual=visual,
    )
    return 0.05 * torch.randn(300, 64, generator=random), stats


def errors(w, q, stats):
    """Mean |Δ| of the text tokens and of the visual ones."""
    difference = (stats.inputs @ (w - q.dequantize()).T).abs().mean(1)
    return float(difference[~stats.inputs_visual].mean()), float(difference[stats.inputs_visual].mean())


def test_columns_with_strong_inputs_are_kept_better_than_by_rounding():
    w, stats = case(0.5)
    mine = errors(w, MBQ().quantize(w, stats), stats)
    plain = errors(w, RTN(bits=3, zero_point="code", clip=False).quantize(w, None), stats)
    assert sum(mine) < 0.75 * sum(plain)


def test_the_exponent_is_the_best_for_the_tokens_that_count():
    """Of inputs whose text needs large scales, and whose visual tokens lose by them."""
    w, stats = case(0.5)
    x = stats.inputs.clone()
    x[stats.inputs_visual] = torch.randn(TOKENS // 2, 64, generator=torch.Generator().manual_seed(5))
    x[stats.inputs_visual, :3] = 0.0
    found = {share: MBQ().quantize(w, replace(stats, inputs=x, visual_share=share)) for share in (0.0, 1.0)}
    spread = {share: float(q.column_scale.float().max() / q.column_scale.min()) for share, q in found.items()}
    assert spread[0.0] > 1.5 * spread[1.0]
    text, visual = zip(*(errors(w, q, replace(stats, inputs=x)) for q in found.values()), strict=True)
    assert text[0] < text[1]
    assert visual[1] < visual[0]


def test_both_losses_weigh_the_kinds():
    w, stats = case(0.3)
    for loss in ("mae", "mse"):
        method = MBQ(loss=loss)
        assert float(method.quantize(w, stats).column_scale.float().std()) > 0


def test_tokens_of_one_kind_count_alike_and_need_no_gradients():
    w, stats = case(None)
    one = replace(stats, second_moments={"visual": stats.hessian}, tokens={"visual": TOKENS})
    alone = replace(one, inputs_visual=torch.ones(TOKENS, dtype=torch.bool))
    assert MBQ().quantize(w, alone) == MBQ().quantize(w, replace(alone, visual_share=0.2))


def test_both_kinds_without_gradients_are_refused():
    w, stats = case(None)
    with pytest.raises(ValueError, match="share of the gradients was not measured"):
        MBQ().quantize(w, stats)


@pytest.mark.parametrize("missing", ["inputs", "inputs_visual"])
def test_statistics_without_inputs_are_refused(missing):
    w, stats = case(0.5)
    with pytest.raises(ValueError, match="needs some inputs of the linear"):
        MBQ().quantize(w, replace(stats, **{missing: None}))


def test_it_asks_for_a_backward_pass_and_inputs():
    assert MBQ().needs_gradients
    assert MBQ().needs_inputs


def test_three_bits_in_groups_of_128_are_3_15():
    assert MBQ().bits_bound((4096, 4096)) == pytest.approx(3 + (16 + 3) / 128 + 16 / 4096)
