"""Error propagation against least squares on the samples themselves; the residual that it reads against the
plain mean.
"""

import numpy as np
import pytest
import torch
from torch import nn

from bivlm.calibration.propagation import DAMPING, propagated
from bivlm.calibration.stats import StatsCollector
from bivlm.types import LinearStats

TOKENS = {"visual": 50, "text": 20}
WEIGHT = 0.05 * torch.randn(7, 12, generator=torch.Generator().manual_seed(3))


def sampled(seed=0):
    """By modality: inputs x (t, in) of the packed model, and x̂ of the full-precision one, which are nearly
    the same.
    """
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(12, 12, generator=random)
    exact = {modality: torch.randn(tokens, 12, generator=random) @ mix for modality, tokens in TOKENS.items()}
    return {
        modality: 0.9 * x + 0.3 * torch.randn(x.shape, generator=random) for modality, x in exact.items()
    }, exact


def stats_of(received, exact):
    def means(left):
        return {modality: left[modality].T @ x / len(x) for modality, x in received.items()}

    away = {modality: exact[modality] - x for modality, x in received.items()}
    return LinearStats(means(received), {modality: len(x) for modality, x in received.items()}, means(away))


def least_squares(received, exact, shares):
    """The weight that solves the damped problem, by numpy: rows of both modalities, each with the root of its
    share.
    """
    root = np.concatenate(
        [np.full(len(x), np.sqrt(shares[modality] / len(x))) for modality, x in received.items()]
    )[:, None]
    x, wanted = (
        root * np.concatenate([one[modality].double().numpy() for modality in received])
        for one in (received, exact)
    )
    w = WEIGHT.double().numpy()
    damping = np.sqrt(DAMPING * np.mean(np.sum(x * x, 0))) * np.eye(12)
    return np.linalg.lstsq(
        np.concatenate([x, damping]), np.concatenate([wanted @ w.T, damping @ w.T]), rcond=None
    )[0].T


@pytest.mark.parametrize(
    ("modality_weight", "shares"),
    [
        ("tokens", {"visual": 5 / 7, "text": 2 / 7}),
        ("balanced", {"visual": 0.5, "text": 0.5}),
        (0.2, {"visual": 0.2, "text": 0.8}),
    ],
)
def test_full_strength_is_the_least_squares_solution(modality_weight, shares):
    received, exact = sampled()
    found = propagated(WEIGHT, stats_of(received, exact), 1.0, modality_weight)
    np.testing.assert_allclose(found.numpy(), least_squares(received, exact, shares), rtol=1e-4, atol=1e-6)


def test_it_brings_the_outputs_nearer():
    received, exact = sampled()
    stats = stats_of(received, exact)

    def lost(weight):
        return sum(
            float((exact[modality] @ WEIGHT.T - x @ weight.T).square().sum())
            for modality, x in received.items()
        )

    losses = [lost(propagated(WEIGHT, stats, strength)) for strength in (0.0, 0.25, 0.5, 1.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_a_strength_takes_that_part_of_the_way(strength):
    stats = stats_of(*sampled())
    torch.testing.assert_close(
        propagated(WEIGHT, stats, strength), WEIGHT.lerp(propagated(WEIGHT, stats, 1.0), strength)
    )


def test_nothing_to_make_good_leaves_the_weight():
    received, exact = sampled()
    stats = stats_of(received, exact)
    assert torch.equal(propagated(WEIGHT, stats, 0.0), WEIGHT)
    assert torch.equal(propagated(WEIGHT, stats_of(exact, exact), 1.0), WEIGHT)
    assert torch.equal(propagated(WEIGHT, LinearStats(stats.second_moments, stats.tokens), 1.0), WEIGHT)
    silent = {modality: torch.zeros_like(x) for modality, x in received.items()}
    assert torch.equal(propagated(WEIGHT, stats_of(silent, exact), 1.0), WEIGHT)


def test_an_input_that_is_always_zero_gets_no_correction_and_moves_nothing():
    received, exact = sampled()
    for x in received.values():
        x[:, 4] = 0
    found = propagated(WEIGHT, stats_of(received, exact), 1.0)
    assert torch.equal(found[:, 4], WEIGHT[:, 4])
    assert bool((found != WEIGHT)[:, :4].all())


def test_arguments_are_left_alone_and_half_precision_weights_are_taken():
    stats = stats_of(*sampled())
    before = [
        tensor.clone() for moments in (stats.second_moments, stats.residuals) for tensor in moments.values()
    ]
    half = WEIGHT.half()
    found = propagated(half, stats, 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, propagated(WEIGHT, stats, 1.0), rtol=0.01, atol=1e-4)
    assert torch.equal(half, WEIGHT.half())
    assert all(
        torch.equal(old, new)
        for old, new in zip(before, [*stats.second_moments.values(), *stats.residuals.values()], strict=True)
    )


class Block(nn.Module):
    """q and k receive the same tensor, o another."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.o = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x):
        y = x * 2
        return self.o(self.q(y) + self.k(y))


def collected(visual_only=frozenset(), drifting=True):
    """A collector that watched two samples, and what q received by modality: (x, x̂) pairs of rows."""
    torch.manual_seed(0)
    block = Block().requires_grad_(False)
    collector = StatsCollector({"q": block.q, "k": block.k, "o": block.o}, visual_only)
    random = torch.Generator().manual_seed(1)
    rows = {"visual": [], "text": []}
    for tokens in (6, 9):
        x = torch.randn(1, tokens, 12, generator=random)
        exact = x + 0.1 * torch.randn(x.shape, generator=random)
        mask = torch.arange(tokens) < tokens // 3
        with collector.inputs() as received:
            block(exact)
        with collector.watching(mask, received if drifting else None):
            block(x)
        rows["visual"].append((2 * x[0, mask], 2 * exact[0, mask]))
        rows["text"].append((2 * x[0, ~mask], 2 * exact[0, ~mask]))
    return collector, rows


def test_the_drift_is_the_mean_over_the_tokens_of_each_modality():
    collector, rows = collected()
    residuals = collector.stats("q").residuals
    for modality, pairs in rows.items():
        x, exact = (torch.cat(side) for side in zip(*pairs, strict=True))
        mean = sum(torch.outer(right - left, left) for left, right in zip(x, exact, strict=True)) / len(x)
        torch.testing.assert_close(residuals[modality], mean)
    assert torch.equal(collector.stats("k").residual("tokens"), collector.stats("q").residual("tokens"))
    assert not torch.equal(collector.stats("o").residual("tokens"), collector.stats("q").residual("tokens"))


def test_the_drifts_are_joined_as_the_second_moments_are():
    stats = collected()[0].stats("q")
    assert stats.tokens == {"visual": 5, "text": 10}
    for weight, share in (("tokens", 1 / 3), ("balanced", 0.5), (0.9, 0.9)):
        torch.testing.assert_close(
            stats.residual(weight), share * stats.residuals["visual"] + (1 - share) * stats.residuals["text"]
        )


def test_linears_named_visual_only_drift_by_visual_tokens_alone():
    collector, _ = collected(frozenset({"o"}))
    assert list(collector.stats("o").residuals) == ["visual"]
    assert sorted(collector.stats("q").residuals) == ["text", "visual"]


def test_without_a_full_precision_model_beside_there_is_no_drift():
    stats = collected(drifting=False)[0].stats("q")
    assert stats.residuals is None
    assert stats.residual("tokens") is None


def test_what_is_received_is_noted_only_meanwhile():
    torch.manual_seed(0)
    block = Block().requires_grad_(False)
    collector = StatsCollector({"q": block.q, "o": block.o})
    x = torch.ones(1, 3, 12)
    with collector.inputs() as received:
        block(x)
    assert torch.equal(received["q"], 2 * x)
    block(5 * x)
    assert torch.equal(received["q"], 2 * x)
    assert collector.groups() == []
