"""Statistics that several processes collect are those of one, bit for bit, on the rank that they are brought
to.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bivlm.calibration import moments
from bivlm.calibration.observing import observe
from bivlm.calibration.shares import Shares
from bivlm.calibration.stats import StatsCollector, Weighing
from bivlm.crew import ALONE, Crew
from crews import in_crew

WIDTHS = {"q": (40, 16), "k": (40, 8), "down": (24, 40)}
COUNT = 5


class Block(nn.Module):
    """q and k share an input, down has its own; a sample of three tokens leaves down out."""

    def __init__(self) -> None:
        super().__init__()
        for name, (columns, rows) in WIDTHS.items():
            setattr(self, name, nn.Linear(columns, rows, bias=False))

    def forward(self, x):
        self.k(x)
        mixed = torch.cat([self.q(x), x[..., :8]], -1)
        return self.down(mixed) if x.shape[-2] != 3 else mixed


@dataclass
class Sample:
    hidden: torch.Tensor
    exact: torch.Tensor
    visual: torch.Tensor


def samples():
    made = torch.Generator().manual_seed(0)
    hidden = [torch.randn(1, 3 + number, 41, generator=made)[..., 1:] for number in range(COUNT)]
    return [Sample(x, x + 0.1, torch.arange(x.shape[1]) % 2 == 0) for x in hidden]


def collector(block, crew, **more):
    linears = {name: getattr(block, name) for name in WIDTHS}
    return StatsCollector(linears, crew=crew, **more)


def collected(crew, more, beside):
    """What is known of every linear, on the rank that has it; and that rank, by name."""
    torch.manual_seed(1)
    block, given = Block().bfloat16().float(), samples()
    found = collector(block, crew, **more)
    with torch.inference_mode():
        observe(
            [found],
            range(COUNT),
            lambda number: given[number].visual,
            lambda number: block(given[number].hidden),
            (lambda number: block(given[number].exact)) if beside else None,
            crew,
        )
    keys = sorted({found.key_of(name) for name in WIDTHS})
    owners = {name: keys.index(found.key_of(name)) % crew.size for name in WIDTHS}
    found.bring(owners)
    return found, owners


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


WEIGHTS = {"q": [torch.linspace(0.1, 1.0, 3 + number) for number in range(COUNT)]}
CASES = {
    "by modality": ({}, False),
    "joint": ({"joint": True}, False),
    "with residuals": ({}, True),
    "with kept inputs": ({"keep_inputs": True}, False),
    "weighed": ({"weighing": Weighing(WEIGHTS, {"q": 0.5}, {"down": torch.ones(40, 24)})}, True),
    "of visual tokens": ({"visual_only": frozenset({"down"})}, True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "size", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
)
def test_any_crew_collects_what_one_process_collects(case, size, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 8)
    monkeypatch.setattr(moments, "WIDE", 16)
    more, beside = CASES[case]

    def job(crew):
        expected, _ = collected(ALONE, more, beside)
        found, owners = collected(crew, more, beside)
        assert found.groups() == expected.groups()
        for name, owner in owners.items():
            if owner == crew.rank:
                assert_same(vars(found.stats(name)), vars(expected.stats(name)))
            else:
                with pytest.raises((ValueError, KeyError)):
                    found.stats(name)

    in_crew(size, job)


def test_every_piece_has_one_rank_and_all_have_about_the_same():
    columns, size = 12 * moments.BLOCK, 4

    class Rank(Crew):
        def __init__(self, rank):
            self.rank, self.size = rank, size

    key = ("down", "moment", "all")
    mine = [Shares(Rank(rank)).mine(key, columns) for rank in range(size)]
    assert sorted(piece for own in mine for piece in own) == list(range(12))
    costs = [sum(12 - piece for piece in own) for own in mine]
    assert max(costs) <= 1.5 * min(costs)


def test_a_residual_is_one_piece():
    assert Shares(ALONE).mine(("down", "residual", "all"), 4 * moments.WIDE) == {0}
