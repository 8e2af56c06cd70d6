"""The differentiable product of a packed weight: torch's gradients, and nothing kept but packed tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bivlm
from bivlm.adapters.lora import Factors, attach, linears_of, loras
from bivlm.formats import FORMATS
from bivlm.packed.embedding import TiedHead
from bivlm.packed.gradient import linear
from tiny.language import tiny_language_model
from weights import NATIVE, Draw

WEIGHTS = NATIVE
every = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_as_torchs_linear_with_the_decoded_weight(weight, dtype):
    packed, draw = weight.encode(), Draw(3)
    decoded = FORMATS[packed.format].decode(packed).dequantize().to(dtype)
    ours, theirs = (draw.normal(2, 3, packed.shape[1]).to(dtype).requires_grad_() for _ in range(2))
    theirs.data.copy_(ours.data)
    biases = [nn.Parameter(torch.linspace(-1, 1, packed.shape[0]).to(dtype)) for _ in range(2)]
    y, expected = linear(ours, packed, biases[0]), nn.functional.linear(theirs, decoded, biases[1])
    assert torch.equal(y, expected)
    for output in (y, expected):
        (output * torch.linspace(0, 1, packed.shape[0])).sum().backward()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)
    torch.testing.assert_close(biases[0].grad, biases[1].grad, **tolerance)


def test_the_decoded_weight_is_not_kept_for_the_backward_pass():
    packed = WEIGHTS["uniform 3 bits"].encode()
    kept = []
    x = Draw(3).normal(4, packed.shape[1]).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda one: one
    ):
        y = linear(x, packed, None)
    assert not kept
    y.sum().backward()
    assert x.grad is not None


def test_a_second_derivative_is_refused():
    packed = WEIGHTS["uniform 3 bits"].encode()
    x = Draw(3).normal(4, packed.shape[1]).requires_grad_()
    [first] = torch.autograd.grad(linear(x, packed, None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_through_a_whole_model_with_its_packed_tables(tmp_path):
    """Blocks, tied embedding and head are packed: factors have the gradients of the decoded model."""
    full = tiny_language_model("qwen3", tmp_path / "full", torch.float32, layers=2)
    packed = bivlm.quantize(full, tmp_path / "packed", recipe="rtn-2", embeddings=3)
    ids, found = torch.arange(3, 20)[None], []
    for decode in (False, True):
        model, _ = bivlm.load(packed)
        model = model.dequantize() if decode else model
        assert decode != any(isinstance(module, TiedHead) for module in model.modules())
        names = [name for name in linears_of(model) if "layers" in name]
        attach(model, {name: drawn_factors(linears_of(model)[name]) for name in names})
        factors = [
            getattr(lora, letter).requires_grad_() for lora in loras(model).values() for letter in "ab"
        ]
        loss = model(input_ids=ids, use_cache=False).logits.square().mean()
        found.append(torch.autograd.grad(loss, factors))
    assert len(found[0]) == 28
    for ours, theirs in zip(*found, strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def drawn_factors(linear):
    draw = Draw(5)
    a, b = draw.normal(2, linear.in_features), draw.normal(linear.out_features, 2)
    return Factors(a / linear.in_features**0.5, b / 8, 1.0)
