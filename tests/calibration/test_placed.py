"""A block on a device of its own. `cpu:0` is the same memory under another name: everything is moved, and
nothing changes.
"""

import pytest
import torch
from torch import nn

from bivlm.calibration.placed import CPU, placed

CARD = torch.device("cpu", 0)


class Block(nn.Module):
    """Fills a dictionary and a list among its arguments, and returns a tuple."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4))
        self.seen = []

    def forward(self, x, pair, *, shared, mask=None):
        self.seen.append(x)
        shared["key"] = x + pair[0]
        shared["list"].append(x * 2)
        return self.linear(x) + self.shift, (pair[1], mask)


def call(block):
    x, pair = torch.arange(8.0).view(2, 4), (torch.ones(4), torch.zeros(2))
    shared = {"list": [torch.zeros(1)], "word": "kept"}
    output, (second, mask) = block(x, pair, shared=shared, mask=None)
    return output, second, mask, shared


def test_a_block_computes_the_same_and_fills_the_dictionaries_of_its_caller():
    block = Block()
    expected = call(block)
    with placed(block, CARD):
        output, second, mask, shared = call(block)
    assert torch.equal(output, expected[0])
    assert torch.equal(second, expected[1])
    assert mask is None
    assert shared["word"] == "kept"
    assert torch.equal(shared["key"], expected[3]["key"])
    assert torch.equal(shared["list"][1], expected[3]["list"][1])
    assert not block._forward_pre_hooks
    assert not block._forward_hooks


def test_every_tensor_goes_there_and_comes_back(monkeypatch):
    """The device of each move, in order: the weights, the arguments, what is filled and returned, the
    weights.
    """
    moves, to = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moves.append(device) or to(tensor, device))
    block = Block()
    with placed(block, CARD):
        weights = len(moves)
        call(block)
        inside = moves[weights:]
    assert moves[:weights] == [CARD] * 3
    assert inside == [CARD] * 4 + [CPU] * 8  # x, two of the pair, one in the list; three more are made
    assert moves[weights + len(inside) :] == []  # the weights are on the CPU by their own word


def test_on_the_cpu_nothing_is_done():
    block = Block()
    with placed(block, CPU):
        assert not block._forward_pre_hooks
        call(block)


def test_a_block_that_fails_is_put_back():
    block = Block()
    with pytest.raises(KeyError), placed(block, CARD):
        block(torch.zeros(1, 4), (torch.zeros(4), torch.zeros(1)), shared={})
    assert not block._forward_hooks


def test_parameters_without_memory_stay_so():
    block = Block()
    block.linear.weight = nn.Parameter(torch.empty(4, 4, device="meta"))
    with placed(block, CARD):
        assert block.linear.weight.is_meta
