"""The moments of experts against plain sums over their tokens, mixed with those of the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from bivlm.calibration import experts as module
from bivlm.calibration.experts import TokenWeights, widened
from bivlm.calibration.stats import StatsCollector, Weighing, collector_for
from bivlm.families.experts import SplitExperts, choosing, layout_of, routes

COUNT, WIDTH, INNER = 4, 6, 5
NAMES = [f"experts.{number}.{name}" for number in range(COUNT) for name in ("gate_up_proj", "down_proj")]


class Config:
    num_local_experts, hidden_size, intermediate_size, hidden_act = COUNT, WIDTH, INNER, "silu"
    _experts_implementation = "eager"


class Block(nn.Module):
    """Experts of which the last one is never chosen, and a linear after them."""

    def __init__(self) -> None:
        super().__init__()
        fused = MixtralExperts(Config())
        for parameter in fused.parameters():
            nn.init.normal_(parameter)
        layout = layout_of(fused)
        assert layout is not None
        self.experts = SplitExperts(fused, layout)
        self.o = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor, shift: int = 0) -> torch.Tensor:
        index = (x[..., :2].abs() * 7 + shift).long() % (COUNT - 1)
        return self.o(self.experts(x, index, torch.full(index.shape, 0.5)))


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block().requires_grad_(False)


def samples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(t, WIDTH, generator=random), torch.arange(t) < t // 3) for t in (9, 12)]


def collected(block: Block, **settings) -> StatsCollector:
    collector = collector_for(block, [*NAMES, "o"], **settings)
    for number, (x, visual) in enumerate(samples()):
        with collector.watching(visual, None, number):
            block(x)
    return collector


def routed(block: Block, expert: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The tokens and the rows of an expert, by sample."""
    found = []
    for x, _ in samples():
        index = (x[..., :2].abs() * 7).long() % (COUNT - 1)
        own = {number: tokens for number, tokens, _ in routes(index, COUNT)}
        tokens = own.get(expert, torch.empty(0, dtype=torch.int64))
        found.append((tokens, x[tokens]))
    return found


@pytest.fixture
def without_prior(monkeypatch):
    monkeypatch.setattr(module, "PRIOR", 0.0)


@pytest.mark.usefixtures("without_prior")
def test_the_moments_of_an_expert_are_those_of_its_tokens(block):
    collector = collected(block)
    for expert in range(COUNT - 1):
        stats, inner = (collector.stats(f"experts.{expert}.{name}") for name in ("gate_up_proj", "down_proj"))
        rows = [
            (rows, visual[tokens])
            for (tokens, rows), (_, visual) in zip(routed(block, expert), samples(), strict=True)
        ]
        for modality, wanted in (("visual", True), ("text", False)):
            chosen = torch.cat([one[marks == wanted] for one, marks in rows])
            torch.testing.assert_close(stats.second_moments[modality], chosen.T @ chosen / len(chosen))
            gated = block.experts.gated(block.experts.linear(expert, "gate_up_proj")(chosen))
            torch.testing.assert_close(inner.second_moments[modality], gated.T @ gated / len(gated))
            assert stats.tokens[modality] == inner.tokens[modality] == len(chosen)
        assert stats.seen == inner.seen == sum(len(one) for one, _ in rows)


def test_few_tokens_are_mixed_with_those_of_the_layer(block):
    stats = collected(block, joint=True).stats("experts.1.gate_up_proj")
    rows = torch.cat([rows for _, rows in routed(block, 1)])
    layer = torch.cat([x for x, _ in samples()])
    prior = module.PRIOR * WIDTH
    expected = (rows.T @ rows + prior * layer.T @ layer / len(layer)) / (len(rows) + prior)
    torch.testing.assert_close(stats.hessian, expected)
    assert stats.tokens == {"all": len(rows) + prior}
    assert stats.seen == len(rows)


@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_an_expert_that_no_token_reaches_has_the_moment_of_the_layer(block, prior, monkeypatch):
    monkeypatch.setattr(module, "PRIOR", prior)
    collector = collected(block, keep_inputs=True)
    layer = torch.cat([x for x, _ in samples()])
    stats = collector.stats(f"experts.{COUNT - 1}.gate_up_proj")
    torch.testing.assert_close(stats.hessian, layer.T @ layer / len(layer))
    assert stats.seen == 0
    assert stats.inputs is not None
    assert stats.inputs.shape == (2 * len(layer), WIDTH)  # each token chooses two
    inner = collector.stats(f"experts.{COUNT - 1}.down_proj")
    rows = [
        block.experts.gated(block.experts.linear(expert, "gate_up_proj")(rows))
        for expert in range(COUNT - 1)
        for _, rows in routed(block, expert)
    ]
    gated = torch.cat(rows)
    torch.testing.assert_close(inner.hessian, gated.T @ gated / len(gated))


def test_a_layer_that_no_sample_reaches_is_refused(block):
    collector = collector_for(block, NAMES)
    assert collector.groups() == []
    assert collector.key_of(NAMES[0]) is None
    with pytest.raises(ValueError, match=r"no calibration sample reached experts\.0\.gate_up_proj"):
        collector.stats("experts.0.gate_up_proj")


def test_each_linear_of_an_expert_is_a_group_and_the_others_are_as_before(block):
    collector = collected(block)
    assert collector.groups() == [["o"], *([name] for name in NAMES)]
    assert collector.stats("o").seen is None


@pytest.mark.usefixtures("without_prior")
def test_the_residual_is_that_of_the_tokens_that_both_models_send_to_the_expert(block):
    collector = collector_for(block, NAMES, joint=True)
    other = [x + 0.25 for x, _ in samples()]
    for number, (x, visual) in enumerate(samples()):
        with collector.inputs() as exact:
            block(other[number], 3)
        with collector.watching(visual, exact, number):
            block(x)
    for expert in range(COUNT - 1):
        own = torch.cat([rows for _, rows in routed(block, expert)])
        away = torch.full_like(own, 0.25)  # of the same token, wherever it goes
        residuals = collector.stats(f"experts.{expert}.gate_up_proj").residuals
        torch.testing.assert_close(residuals["all"], away.T @ own / len(own))
    inner = collector.stats("experts.0.down_proj").residuals["all"]
    total = torch.zeros(INNER, INNER)
    for (tokens, rows), theirs in zip(routed(block, 0), other, strict=True):
        index = (theirs[..., :2].abs() * 7 + 3).long() % (COUNT - 1)
        there = {number: tokens for number, tokens, _ in routes(index, COUNT)}[0].tolist()
        for token, row in zip(tokens.tolist(), rows, strict=True):
            first = block.experts.linear(0, "gate_up_proj")
            mine = block.experts.gated(first(row))
            if token in there:
                total += torch.outer(block.experts.gated(first(theirs[token])) - mine, mine)
    torch.testing.assert_close(inner, total / collector.stats("experts.0.down_proj").seen)


@pytest.mark.usefixtures("without_prior")
def test_tokens_are_weighed_and_those_without_a_weight_count_as_the_mean(block):
    [(first, rows), (second, more)] = routed(block, 1)
    values, places = [torch.full((1,), 3.0), torch.zeros(0)], [first[:1], second[:0]]
    weights = TokenWeights(values, places)
    assert weights.of(0, first).tolist() == [3.0] + [1.0] * (len(first) - 1)
    name = "experts.1.gate_up_proj"
    weighing = Weighing({name: values}, {name: 0.25}, {}, {name: places})
    stats = collected(block, joint=True, weighing=weighing).stats(name)
    scaled = torch.cat([rows, more])
    each = torch.tensor([3.0] + [1.0] * (len(scaled) - 1))
    torch.testing.assert_close(stats.hessian, (scaled.T * each) @ scaled / each.sum())
    assert stats.visual_share == 0.25
    assert stats.seen == len(scaled)


def test_what_is_recorded_and_added_later_is_the_same(block):
    expected, collector = collected(block), collector_for(block, [*NAMES, "o"])
    for number, (x, visual) in enumerate(samples()):
        with collector.recording() as seen:
            block(x)
        collector.add(seen, visual, number)
    for name in (*NAMES, "o"):
        for modality, moment in expected.stats(name).second_moments.items():
            assert torch.equal(collector.stats(name).second_moments[modality], moment)


@pytest.mark.parametrize(("top_k", "inside"), [(0, 2), (1, 2), (3, 3)])
def test_routers_choose_more_while_calibrating(block, top_k, inside):
    """Never fewer, and afterwards as before, whatever happens."""
    block.gate = nn.Identity()
    block.gate.top_k = block.o.top_k = 2
    seen = []

    def fails() -> None:
        with widened(nn.ModuleDict({"block": block, "other": nn.Identity()}), top_k):
            seen.extend((block.gate.top_k, block.o.top_k))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert seen == [inside, inside]
    assert (block.gate.top_k, block.o.top_k) == (2, 2)
    block.gate.top_k = True  # no number of experts
    assert choosing(block, "experts") == [block.o]
