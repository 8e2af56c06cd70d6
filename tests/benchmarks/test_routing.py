"""What the benchmark of a mixture says of its routing, on choices made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.mixtral.modeling_mixtral import MixtralConfig, MixtralExperts

from routing import Choice, Routing, drift, profile, routed, shuffled


def routing(index: list[list[int]], weights: list[list[float]]) -> Routing:
    """Of two sequences of two tokens; the first token is padding, the second visual."""
    real = torch.tensor([[False, True], [True, True]])
    visual = torch.tensor([[False, True], [False, False]])
    return Routing({"e": [Choice(torch.tensor(index), torch.tensor(weights))]}, [real], [visual])


FULL = routing([[0, 1], [0, 1], [2, 3], [1, 2]], [[0.5, 0.5], [0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
OTHER = routing([[3, 2], [0, 2], [2, 3], [2, 1]], [[0.5, 0.5], [0.7, 0.3], [0.5, 0.5], [0.6, 0.4]])


def test_drift_counts_sets_and_mass_of_real_tokens():
    whole = drift(FULL, OTHER, "e", 4)
    assert whole.tokens == pytest.approx(1 / 3)  # an order is no set, a weight is none
    assert whole.mass == pytest.approx(0.1 / 3)
    assert whole.load == pytest.approx(1 / 6)  # one of six choices moved
    visual, text = (drift(FULL, OTHER, "e", 4, which) for which in ("visual", "text"))
    assert (visual.tokens, visual.mass) == (1, pytest.approx(0.1))
    assert (text.tokens, text.mass, text.load) == (0, 0, 0)
    own = drift(FULL, FULL, "e", 4)
    assert (own.tokens, own.mass, own.load) == (0, 0, 0)


def test_a_profile_is_of_the_loads():
    found = profile(FULL, "e", 4)
    assert (found.fewest, found.most) == (pytest.approx(4 / 6), pytest.approx(8 / 6))
    assert 0.9 < found.entropy < 1
    assert found.apart == pytest.approx(0.75)


def test_experts_renamed_are_as_many():
    index = shuffled(FULL, 4, seed=1).choices["e"][0].index
    assert sorted(index.unique().tolist()) == [0, 1, 2, 3]
    assert ((index[:, :1] == index[:, 1:]).sum()) == 0


def test_a_model_computes_with_the_routing_that_it_is_given():
    config = MixtralConfig(hidden_size=6, intermediate_size=4, num_local_experts=4)
    config._experts_implementation = "eager"

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.config = MixtralExperts(config), config
            self.config.image_token_id = 5
            for parameter in self.parameters():
                nn.init.normal_(parameter)

        def forward(self, input_ids, attention_mask, hidden, index, weights):
            return self.e(hidden, index, weights)

    model, hidden = Model(), torch.randn(4, 6)
    ids = torch.tensor([[0, 5], [1, 2]])
    own, other = FULL.choices["e"][0], OTHER.choices["e"][0]
    asked = {"input_ids": ids, "attention_mask": torch.tensor([[0, 1], [1, 1]]), "hidden": hidden}
    seen = Routing()
    with torch.no_grad(), routed(model, seen):
        found = model(**asked, index=own.index, weights=own.weights)
    assert torch.equal(seen.choices["e"][0].index, own.index)
    assert torch.equal(torch.cat(seen.real), FULL.real[0])
    assert torch.equal(torch.cat(seen.visual), FULL.visual[0])
    with torch.no_grad(), routed(model, given=seen):
        again = model(**asked, index=other.index, weights=other.weights)
    assert torch.equal(again, found)
    assert not model._forward_pre_hooks
    assert not model.e._forward_pre_hooks
