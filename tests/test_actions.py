"""Action tokens: which they are, and what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlavaConfig

from bivlm.actions import ActionTokens, action_tokens
from bivlm.errors import InputError


def as_openvla_reads(token: int, vocabulary: int, bins: int) -> float:
    """The value of an action token by OpenVLA's own steps (Kim et al., arXiv 2406.09246, public code)."""
    edges = np.linspace(-1.0, 1.0, bins)
    middles = (edges[:-1] + edges[1:]) / 2.0
    return float(middles[np.clip(vocabulary - token - 1, 0, len(middles) - 1)])


def test_a_certain_token_has_the_value_that_openvla_gives_it():
    actions = ActionTokens(vocabulary=40, bins=8)
    logits = torch.full((8, 64), -1e4)
    for row, token in enumerate(range(32, 40)):
        logits[row, token] = 1e4
    expected = [as_openvla_reads(token, 40, 8) for token in range(32, 40)]
    torch.testing.assert_close(actions.values(logits), torch.tensor(expected))


def test_the_value_is_the_mean_over_action_tokens_alone():
    actions = ActionTokens(vocabulary=10, bins=4)
    logits = torch.zeros(1, 12)
    logits[0, 9], logits[0, 3], logits[0, 11] = np.log(3.0), 50.0, 50.0  # others are no actions
    chances = np.array([1, 1, 1, 3]) / 6
    values = [as_openvla_reads(token, 10, 4) for token in range(6, 10)]
    assert float(actions.values(logits)) == pytest.approx(float(chances @ values), abs=1e-6)


def test_half_precision_is_read_in_float32():
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    actions = ActionTokens(40, 8)
    assert actions.values(logits).dtype == torch.float32
    torch.testing.assert_close(actions.values(logits), actions.values(logits.float()))


def test_action_tokens_are_the_last_of_the_vocabulary():
    ids = torch.tensor([0, 31, 32, 39, 40])
    assert ActionTokens(40, 8).among(ids).tolist() == [False, False, True, True, False]


def config(**settings: object) -> LlavaConfig:
    return LlavaConfig(text_config=LlamaConfig(vocab_size=96), **settings)


def test_the_config_names_them_and_rows_that_fill_up_are_none():
    assert action_tokens(config(n_action_bins=16)) == ActionTokens(96, 16)
    assert action_tokens(config(n_action_bins=16, pad_to_multiple_of=64)) == ActionTokens(32, 16)


@pytest.mark.parametrize("bins", [None, 1, 97, 2.5, "256", True])
def test_a_config_without_a_number_of_bins_is_refused(bins):
    with pytest.raises(InputError, match="needs a model that says actions as tokens"):
        action_tokens(config(**({} if bins is None else {"n_action_bins": bins})))
