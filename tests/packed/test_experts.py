"""The chosen experts computed together: the numbers of the loop, bit for bit, for every layout; and what the
loop has to compute.
"""

from __future__ import annotations

import copy
import pickle
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bivlm.families.experts import DOWN, SplitExperts, layout_of
from bivlm.packed.experts import compute_together, mix_together
from bivlm.packed.linear import PackedLinear
from bivlm.packed.module import expand_weights, set_activations
from trellis_weights import trellis_weight
from weights import factors, levels, uniform

COUNT, WIDTH, INNER = 6, 48, 32
KINDS = {  # with plain weights; a norm after each expert; no gate; transposed, biases, gate and up in turn
    "qwen3_moe": "Qwen3MoeExperts",
    "muse_spark": "MuseSparkExperts",
    "nemotron_h": "NemotronHExperts",
    "gpt_oss": "GptOssExperts",
}


class AnyConfig(SimpleNamespace):
    """Whatever a module of experts asks of its config."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        values = {"act": "silu", "limit": 1.5, "alpha": 1.7, "eps": 1e-6, "softcap": 2.0, "latent": None}
        sizes = {"expert": COUNT, "intermediate": INNER, "hidden": WIDTH, "impl": "eager"}
        return next(value for part, value in {**values, **sizes}.items() if part in name)


def weight_of(number, rows, columns):
    """Unlike settings, and formats."""
    kinds = (
        lambda: trellis_weight(rows, columns),
        lambda: trellis_weight(rows, columns, (3, 1)),
        lambda: levels(rows, columns, symmetric=True),
        lambda: trellis_weight(rows, columns, (1, 0)),
        lambda: uniform(rows, columns, group_size=16),
        lambda: factors(rows, columns, 24),
    )
    return kinds[number % len(kinds)]().encode()


def experts_of(model="qwen3_moe", dtype=torch.bfloat16, count=COUNT):
    kind = getattr(import_module(f"transformers.models.{model}.modeling_{model}"), KINDS[model])
    config = AnyConfig(num_experts=count, num_local_experts=count, n_routed_experts=count)
    module = kind(config).to(dtype).requires_grad_(False)
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    layout = layout_of(module)
    experts = SplitExperts(module, layout)
    for number in range(count):
        for name in layout.projections:
            linear = experts.linear(number, name)
            packed = PackedLinear(weight_of(number, *linear.weight.shape), linear.bias, dtype)
            experts.get_submodule(str(number)).add_module(name, packed)
    compute_together(nn.ModuleDict({"layer": experts}))
    return experts.eval()


def drawn(tokens, dtype=torch.bfloat16, chosen=3, count=COUNT):
    generator = torch.Generator().manual_seed(tokens)
    index = torch.rand(tokens, count, generator=generator).topk(min(chosen, count)).indices
    hidden = torch.randn(tokens, WIDTH, generator=generator).to(dtype)
    return hidden, index, torch.rand(index.shape, generator=generator).to(dtype)


def loop(experts, *given):
    together, experts.together = experts.together, None
    try:
        return experts.mix(*given)
    finally:
        experts.together = together


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model", KINDS)
def test_the_numbers_of_the_loop(model, dtype):
    experts = experts_of(model, dtype)
    for tokens in (1, 3, 40):
        given = drawn(tokens, dtype)
        found = mix_together(experts, *given)
        assert found is not None
        assert torch.equal(found, loop(experts, *given))
        assert torch.equal(found, experts(*given))


def test_inputs_that_may_be_rounded():
    experts = experts_of()
    set_activations(experts, "int8")
    given = drawn(5)
    exact = loop(experts_of(), *given)
    found = mix_together(experts, *given)
    assert torch.equal(found, loop(experts, *given))
    assert not torch.equal(found, exact)
    experts.linear(1, DOWN).activations = "float"  # of one expert alone
    assert torch.equal(mix_together(experts, *given), loop(experts, *given))


def test_choices_of_nobody_of_one_and_of_more_than_there_are():
    experts = experts_of()
    hidden, index, weights = drawn(4)
    index[1, 0] = index[2, 2] = COUNT  # none
    assert torch.equal(mix_together(experts, hidden, index, weights), loop(experts, hidden, index, weights))
    index[:] = 4
    assert torch.equal(mix_together(experts, hidden, index, weights), loop(experts, hidden, index, weights))
    everywhere, many = torch.arange(9).repeat(4, 1) % COUNT, torch.rand(4, 9).bfloat16()
    assert torch.equal(
        mix_together(experts, hidden, everywhere, many), loop(experts, hidden, everywhere, many)
    )
    index[3, 1] = COUNT + 1
    with pytest.raises(IndexError, match="the expert 7 is chosen; there are 6"):
        experts(hidden, index, weights)
    index[:] = COUNT
    assert not experts(hidden, index, weights).any()
    assert experts(hidden[:0], index[:0], weights[:0]).shape == (0, WIDTH)


def test_one_expert():
    experts, given = experts_of(count=1), drawn(3, chosen=1, count=1)
    assert torch.equal(mix_together(experts, *given), loop(experts, *given))


def test_an_expert_that_is_not_chosen_is_not_read():
    experts, (hidden, index, weights) = experts_of(), drawn(2)
    index[:] = torch.tensor([0, 2, 5])
    experts(hidden, index, weights)
    prepared = [n for n in range(COUNT) if experts.linear(n, DOWN)._prepared is not None]
    assert prepared == [0, 2, 5]


def plain(experts):
    linear = nn.Linear(INNER, WIDTH, bias=False, dtype=torch.bfloat16)
    experts.get_submodule("2").add_module(DOWN, linear)


LEFT_TO_THE_LOOP = {
    "an expert that is not packed": plain,
    "a hook of a linear": lambda e: e.linear(2, DOWN).register_forward_hook(lambda m, a, y: 2 * y),
    "a hook before an expert": lambda e: e.get_submodule("2").register_forward_pre_hook(lambda m, a: None),
    "a forward of its own": lambda e: setattr(e.linear(2, DOWN), "forward", lambda x: x.new_ones(1, WIDTH)),
    "decoded weights": expand_weights,
}


@pytest.mark.parametrize("change", LEFT_TO_THE_LOOP.values(), ids=LEFT_TO_THE_LOOP)
def test_what_the_loop_computes(change):
    experts, (hidden, index, weights) = experts_of(), drawn(2)
    index[:] = torch.tensor([0, 2, 5])
    change(experts)
    assert mix_together(experts, hidden, index, weights) is None
    assert torch.equal(experts(hidden, index, weights), loop(experts, hidden, index, weights))


def test_gradients_graphs_and_many_tokens_are_left_to_the_loop(monkeypatch):
    experts, given = experts_of(dtype=torch.float32), drawn(2, torch.float32)
    with torch.inference_mode(False), torch.enable_grad():
        hidden, index, weights = (one.clone() for one in given)
        experts(hidden.requires_grad_(), index, weights).sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.any()
    monkeypatch.setattr("bivlm.packed.experts.MOST_ROWS", 5)
    assert mix_together(experts, *given) is None
    monkeypatch.undo()
    assert mix_together(experts, *given) is not None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert mix_together(experts, *given) is None


def test_copies_compute_together_as_well():
    experts, given = experts_of(), drawn(1)
    expected = experts(*given)
    for one in (copy.deepcopy(experts), pickle.loads(pickle.dumps(experts))):
        assert one.together is mix_together
        assert torch.equal(one(*given), expected)
