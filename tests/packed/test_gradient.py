"""The differentiable product of a packed weight: torch's gradients, and nothing kept but packed tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bivlm.formats import FORMATS
from bivlm.packed.gradient import linear
from weights import NATIVE, OTHER, Draw

WEIGHTS = NATIVE | OTHER
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
