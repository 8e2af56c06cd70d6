"""The hidden states without the head are those that the head reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bivlm.contracts.samples import opened
from bivlm.errors import InputError
from bivlm.families import family_of
from bivlm.families.final_states import final_states
from tiny import KINDS, tiny_model, tiny_processor, tiny_samples

QUICK = ("llava", "qwen2_vl", "mllama")


def inputs_of(kind: str, model):
    family, samples = family_of(model.config), tiny_samples(2)
    if not family.reads_images:
        samples = [replace(sample, image=None) for sample in samples]
    return family.inputs(tiny_processor(kind), samples, opened(samples), model.config)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_the_last_of_all_hidden_states_in_every_family(kind: str):
    model = tiny_model(kind)
    inputs = inputs_of(kind, model)
    with torch.inference_mode():
        hidden = final_states(model, inputs)
        output = model(**inputs, use_cache=False, output_hidden_states=True)
    assert hidden.shape[:2] == inputs["input_ids"].shape
    torch.testing.assert_close(hidden, output.hidden_states[-1], rtol=1e-5, atol=1e-6)


def test_a_model_that_returns_no_hidden_states_is_refused():
    class Silent(nn.Module):
        base_model = None

        def forward(self, **_given):
            return None

    model = Silent()
    model.base_model = model.forward
    with pytest.raises(InputError, match="Silent does not return the hidden states"):
        final_states(model, {"attention_mask": torch.ones(1, 2)})
