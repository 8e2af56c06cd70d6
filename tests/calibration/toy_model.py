"""A small model that does between its blocks all that models do."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from bivlm.calibration.inputs import CalibrationInput

WIDTH = 6


class Block(nn.Module):
    """A linear that adds what an earlier block left in `shared`, and leaves something itself."""

    def __init__(self, number):
        super().__init__()
        self.linear, self.number = nn.Linear(WIDTH, WIDTH), number

    def forward(self, inputs, *, shared, extra=None):
        output = torch.tanh(self.linear(inputs))
        if "kv" in shared:
            output = output + shared["kv"][0]
        if self.number == 0:
            shared["kv"] = (output * 2, None)
        return output, extra


class Model(nn.Module):
    """Blocks with all that happens between blocks: an added feature, a change of shape, a module, a tuple."""

    def __init__(self, *, twice=False, autocast=False):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(16, WIDTH)
        self.blocks = nn.ModuleList([Block(number) for number in range(4)])
        self.between = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 16)
        self.twice, self.autocast = twice, autocast

    def forward(self, input_ids, skip=None, use_cache=False, logits_to_keep=0):
        hidden, shared = self.table(input_ids), {}
        for number, block in enumerate([*self.blocks, *self.blocks] if self.twice else self.blocks):
            if number == 1 and skip is not None:
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                hidden, _ = block(hidden, shared=shared)
            if number == 0:
                added = self.between(hidden)
            if number == 1:
                hidden = hidden.reshape(1, -1, 2, WIDTH).mean(2)  # two tokens become one
                added = added.reshape(1, -1, 2, WIDTH).mean(2)
                shared["kv"] = (shared["kv"][0].reshape(1, -1, 2, WIDTH).mean(2),)
            if number == 2:
                with torch.no_grad():
                    hidden += 0.5
                hidden = hidden + added
        return SimpleNamespace(logits=self.head(hidden[:, -logits_to_keep:]))


PATHS = [f"blocks.{number}" for number in range(4)]


def sample(*ids, **more):
    tensors = {"input_ids": torch.tensor([ids]), **more}
    return CalibrationInput(tensors, torch.zeros(len(ids), dtype=torch.bool))
