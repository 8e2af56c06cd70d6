"""Stacks in the trace of a model: lists of blocks, and blocks that a Sequential calls itself."""

from __future__ import annotations

import torch
from torch import nn

from bivlm.calibration.streams import replay
from bivlm.families.base import block_paths
from bivlm.families.found.stacks import find_stacks
from bivlm.families.found.tracing import run, watch


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, hidden):
        return hidden + self.up(self.norm(hidden)).relu()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tower = nn.Sequential(Block(), Block(), Block())
        self.projector = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.layers = nn.ModuleList([Block(), Block()])

    def forward(self, pixels):
        hidden = self.projector(self.tower(pixels))
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def test_a_sequential_of_blocks_is_a_stack_and_pauses_at_each():
    model, inputs = Model(), {"pixels": torch.randn(1, 5, 4)}
    found, repeated = find_stacks(model, watch(model, inputs))
    assert [stack.path for stack in found] == ["tower", "layers"]
    assert repeated == []
    assert block_paths(model, "tower") == ["tower.0", "tower.1", "tower.2"]
    assert block_paths(model, "projector") == ["projector"], "linears in a row are one block"
    paths = [path for stack in ("tower", "projector", "layers") for path in block_paths(model, stack)]
    output, ran = replay(lambda: run(model, inputs), {path: model.get_submodule(path) for path in paths})
    assert ran == paths
    assert torch.equal(output, run(model, inputs))


def test_a_module_that_runs_in_a_sequential_with_others_is_one_block():
    model = nn.ModuleDict({"one": nn.Sequential(Block()), "mixed": nn.Sequential(Block(), nn.GELU())})
    assert block_paths(model, "one") == ["one"]
    assert block_paths(model, "mixed") == ["mixed"]
