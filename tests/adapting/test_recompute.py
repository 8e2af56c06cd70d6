"""Blocks that are computed again in the backward pass: the same gradients, less kept."""

from __future__ import annotations

import pytest
import torch

import bivlm
from bivlm.adapters.lora import Factors, attach, loras
from bivlm.adapting.recompute import activation_bytes, decoded_bytes, recomputed
from bivlm.families import family_of
from bivlm.packed.linear import packed_linears
from bivlm.packed.module import expand_weights


def model_with_adapters(base):
    model, _ = bivlm.load(base)
    generator = torch.Generator().manual_seed(0)
    attach(
        model,
        {
            name: Factors(
                torch.randn(2, one.in_features, generator=generator) / 8,
                torch.randn(one.out_features, 2, generator=generator) / 8,
                1.0,
            )
            for name, one in packed_linears(model).items()
        },
    )
    return model


def gradients(model, kept):
    """The gradients of all factors; the bytes that the backward pass kept are appended to `kept`."""

    def note(tensor):
        kept.append(tensor.nbytes)
        return tensor

    parameters = [getattr(lora, letter).requires_grad_() for lora in loras(model).values() for letter in "ab"]
    ids = torch.arange(3, 35)[None]
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        recomputed(model, family_of(model.config), ids.shape[1]),
    ):
        loss = model(input_ids=ids, use_cache=False).logits.float().square().mean()
    return torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("expand", [False, True])
def test_the_same_gradients_and_less_kept(base, expand, monkeypatch):
    model, plain, again = model_with_adapters(base), [], []
    if expand:
        expand_weights(model)
    expected = gradients(model, plain)
    monkeypatch.setattr("bivlm.adapting.recompute.ACTIVATION_BYTES", 0)
    found = gradients(model, again)
    assert all(map(torch.equal, found, expected))
    assert sum(again) < 0.6 * sum(plain)
    assert all("forward" not in vars(module) for module in model.modules())


def test_the_sizes_are_counted(base):
    model, _ = bivlm.load(base)
    linears = packed_linears(model).values()
    assert decoded_bytes(model) == sum(4 * one.in_features * one.out_features for one in linears)
    assert activation_bytes(model, 10) > sum(40 * (one.in_features + one.out_features) for one in linears)
