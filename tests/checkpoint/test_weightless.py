"""Models without weights: no parameter has memory, not even while the model is built; buffers are
computed.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from bivlm.checkpoint import weightless
from bivlm.checkpoint.weightless import no_weights
from tiny import KINDS, tiny_config

USUAL = ("llava", "qwen3_vl", "gemma4")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in USUAL else pytest.mark.slow) for kind in KINDS]
)
def test_the_model_is_the_same_with_and_without_memory(kind, monkeypatch):
    """Even if no size is too small to be left out."""
    config, auto_model = tiny_config(kind), transformers.AutoModelForImageTextToText
    with init_empty_weights(include_buffers=False):
        expected = auto_model.from_config(config)
    monkeypatch.setattr(weightless, "LARGE", 0)
    with no_weights():
        found = auto_model.from_config(config)
    for (name, one), (other_name, other) in zip(
        found.state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert (name, one.shape, one.dtype, one.device) == (
            other_name,
            other.shape,
            other.dtype,
            other.device,
        )
    assert all(parameter.is_meta for parameter in found.parameters())
    buffers = dict(expected.named_buffers())
    assert {*buffers} == {name for name, _ in found.named_buffers()}
    for name, buffer in found.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_what_is_too_large_for_any_machine_is_built():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.empty(1 << 20, 1 << 14, 1 << 14))
            self.down = nn.Parameter(torch.empty((1 << 20, 1 << 14, 1 << 14), dtype=torch.bfloat16))
            self.scale = nn.Parameter(torch.empty(size=(1 << 40,)))
            self.register_buffer("places", torch.arange(5))

    with no_weights():
        made = Experts()
    assert all(one.is_meta for one in made.parameters())
    assert made.down.dtype == torch.bfloat16
    assert made.places.tolist() == [0, 1, 2, 3, 4]
    assert not torch.empty(4).is_meta
