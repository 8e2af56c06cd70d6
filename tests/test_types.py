"""How text and visual tokens share a second moment."""

import pytest
import torch

from bivlm.types import LinearStats

TEXT, VISUAL = torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([5.0, 0.0]))
BOTH = LinearStats({"text": TEXT, "visual": VISUAL}, {"text": 10, "visual": 30})


@pytest.mark.parametrize(
    ("weight", "visual"),
    [("tokens", 0.75), ("balanced", 0.5), (0.2, 0.2), (0.0, 0.0), (1.0, 1.0)],
    ids=["tokens", "balanced", "0.2", "0", "1"],
)
def test_shares(weight, visual):
    torch.testing.assert_close(BOTH.second_moment(weight), (1 - visual) * TEXT + visual * VISUAL)


def test_the_hessian_counts_every_token_once():
    assert torch.equal(BOTH.hessian, BOTH.second_moment("tokens"))


@pytest.mark.parametrize("weight", ["tokens", "balanced", 0.0, 0.2, 1.0])
def test_a_modality_that_is_alone_counts_alone(weight):
    assert torch.equal(LinearStats({"visual": VISUAL}, {"visual": 3}).second_moment(weight), VISUAL)
    assert torch.equal(LinearStats({"text": TEXT}, {"text": 3}).second_moment(weight), TEXT)
