"""Second moments by modality against the plain sums, and which linears share one."""

import pytest
import torch
from torch import nn

from bivlm.calibration import moments
from bivlm.calibration.stats import StatsCollector


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.o = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 4)

    def forward(self, x):
        same = x * 1
        return self.o(self.q(x) + self.k(x).sum(-1, keepdim=True) + same)


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block().requires_grad_(False)


def collected(block, samples, **settings):
    collector = StatsCollector({"q": block.q, "k": block.k, "o": block.o}, **settings)
    for x, visual in samples:
        with collector.watching(visual):
            block(x)
    return collector


def samples():
    random = torch.Generator().manual_seed(1)
    return [
        (torch.randn(1, tokens, 4, generator=random), torch.arange(tokens) < tokens // 3) for tokens in (6, 9)
    ]


def test_moments_are_the_means_over_the_tokens_of_each_modality(block):
    stats = collected(block, samples()).stats("q")
    for modality, chosen in (("visual", lambda mask: mask), ("text", lambda mask: ~mask)):
        rows = torch.cat([x[0, chosen(mask)] for x, mask in samples()])
        torch.testing.assert_close(stats.second_moments[modality], rows.T @ rows / len(rows))
        assert stats.tokens[modality] == len(rows)


def test_without_a_mask_all_tokens_are_visual(block):
    stats = collected(block, [(x, None) for x, _ in samples()]).stats("q")
    assert list(stats.second_moments) == ["visual"]
    assert stats.tokens == {"visual": 15}


def test_linears_named_visual_only_see_no_text(block):
    collector = collected(block, samples(), visual_only=frozenset({"o"}))
    assert list(collector.stats("o").second_moments) == ["visual"]
    assert sorted(collector.stats("q").second_moments) == ["text", "visual"]


def test_linears_of_one_tensor_share_its_moment_and_others_do_not(block):
    collector = collected(block, samples())
    assert list(collector._sums) == ["q", "o"]
    assert torch.equal(collector.stats("k").hessian, collector.stats("q").hessian)
    assert not torch.equal(collector.stats("o").hessian, collector.stats("q").hessian)


def test_wide_moments_of_one_linear_alone_are_joined_as_they_are_looked_at(block, monkeypatch):
    apart, known = collected(block, samples()), dict.fromkeys("qko", 0.3)
    assert collected(block, samples(), looked_at=known).stats("o").second_moments  # narrow
    monkeypatch.setattr(moments, "WIDE", 2)
    monkeypatch.setattr(moments, "BLOCK", 2)
    collector = collected(block, samples(), looked_at=known)
    for name, alone in (("q", False), ("k", False), ("o", True)):
        found, expected = collector.stats(name), apart.stats(name)
        assert (not found.second_moments) is alone
        for weight in ("tokens", 0.3):
            torch.testing.assert_close(found.second_moment(weight), expected.second_moment(weight))
    assert collector.stats("o").joined[0.3] is collector.stats("o").second_moment(0.3)


def test_wide_moments_stay_apart_where_their_weight_is_not_known_yet(block, monkeypatch):
    monkeypatch.setattr(moments, "WIDE", 2)
    for weight in ("tokens", "gradient"):  # no gradients were measured
        collector = collected(block, samples(), looked_at=dict.fromkeys("qko", weight))
        assert collector.stats("o").second_moments.keys() == {"text", "visual"}


def test_moments_leave_the_memory_with_the_last_linear_that_needs_them(block):
    collector = collected(block, samples())
    expected = collector.stats("k").hessian.clone()
    collector.forget("q")
    assert torch.equal(collector.stats("k").hessian, expected)
    collector.forget("k")
    assert list(collector._sums) == ["o"]
    assert not collector._stats
    with pytest.raises(ValueError, match="no calibration sample reached q"):
        collector.stats("q")


def test_half_precision_inputs_are_summed_in_float32(block):
    block.half()
    stats = collected(block, [(x.half(), mask) for x, mask in samples()]).stats("q")
    assert stats.hessian.dtype == torch.float32


def test_a_linear_that_nothing_reached_is_named(block):
    with pytest.raises(ValueError, match="no calibration sample reached q"):
        StatsCollector({"q": block.q}).stats("q")


def test_hooks_are_gone_afterwards(block):
    collector = collected(block, samples())
    before = collector.stats("q").tokens
    block(samples()[0][0])
    assert collector.stats("q").tokens == before


def test_inputs_are_kept_if_they_are_asked_for(block):
    stats = collected(block, samples(), keep_inputs=True).stats("k")
    assert torch.equal(stats.inputs, torch.cat([x[0] for x, _ in samples()]))
    assert torch.equal(stats.inputs_visual, torch.cat([mask for _, mask in samples()]))
    assert collected(block, samples()).stats("k").inputs is None


def test_of_linears_that_see_images_alone_all_kept_inputs_are_visual(block):
    collector = collected(block, samples(), visual_only=frozenset({"o"}), keep_inputs=True)
    assert bool(collector.stats("o").inputs_visual.all())
    assert not bool(collector.stats("q").inputs_visual.all())
