"""A low-rank adapter next to a linear: peft's numbers, gradients to the factors, names and state dict as
before.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bivlm.adapters.lora import Factors, attach, detach, loras
from bivlm.errors import InputError
from bivlm.packed.linear import packed_linears, replace_linear
from bivlm.packed.module import expand_weights
from bivlm.quantizers import GPTQ
from bivlm.types import LinearStats

IN, OUT, RANK = 40, 12, 3


class Model(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.proj = nn.Linear(IN, OUT, bias=bias)

    def forward(self, x):
        return self.proj(x)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(seed=1, scale=1.5, out=OUT):
    return Factors(drawn(RANK, IN, seed=seed), drawn(out, RANK, seed=seed + 1), scale)


def packed_model(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    model = Model(bias).to(dtype).requires_grad_(False)
    packed = GPTQ().quantize(0.1 * drawn(OUT, IN), LinearStats({"text": torch.eye(IN)}, {"text": 1})).encode()
    replace_linear(model, "proj", packed)
    return model


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_numbers_as_peft_on_the_decoded_weight(dtype):
    peft = pytest.importorskip("peft")
    model, x = packed_model(dtype), drawn(2, 5, IN, seed=5).to(dtype)
    plain = Model().to(dtype)
    plain.proj.weight.data = model.proj.dequantize()
    plain.proj.bias.data = model.proj.bias.data.clone()
    settings = peft.LoraConfig(r=RANK, lora_alpha=1.5 * RANK, target_modules=["proj"])
    theirs = peft.get_peft_model(plain, settings)
    given = factors()
    theirs.base_model.model.proj.lora_A.default.weight.data = given.a
    theirs.base_model.model.proj.lora_B.default.weight.data = given.b
    attach(model, {"proj": given})
    y, expected = model(x), theirs(x).detach()
    assert y.dtype == expected.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert float((y - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("expand", [False, True])
def test_gradients_reach_the_factors_and_the_input(expand):
    model, x, given = packed_model(), drawn(4, IN, seed=5).requires_grad_(), factors()
    if expand:
        expand_weights(model)
    attach(model, {"proj": given})
    lora = loras(model)["proj"]
    lora.a.requires_grad_(), lora.b.requires_grad_()
    model(x).square().sum().backward()
    weight = model.proj.dequantize()
    a, b, z = given.a.clone().requires_grad_(), given.b.clone().requires_grad_(), x.detach().requires_grad_()
    (z @ weight.T + model.proj.bias + 1.5 * (z @ a.T) @ b.T).square().sum().backward()
    for found, expected in ((lora.a.grad, a.grad), (lora.b.grad, b.grad), (x.grad, z.grad)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_names_and_state_dict_are_those_of_the_base():
    model = packed_model()
    before = set(model.state_dict())
    attach(model, {"proj": factors()})
    assert set(model.state_dict()) == before
    assert set(packed_linears(model)) == {"proj"}


def test_many_adapters_on_one_base():
    model, x = packed_model(), drawn(3, IN, seed=5)
    base = model(x)
    outputs = []
    for seed in (1, 5):
        attach(model, {"proj": factors(seed)})
        outputs.append(model(x))
        assert len(loras(model)) == 1
    assert not torch.equal(*outputs)
    detach(model)
    assert torch.equal(model(x), base)
    assert not loras(model)
    attach(model, {"proj": factors(1)})
    assert torch.equal(model(x), outputs[0])


def test_a_copy_has_its_own_adapter():
    model, x = packed_model(), drawn(3, IN, seed=5)
    attach(model, {"proj": factors()})
    with_adapter, other = model(x), copy.deepcopy(model)
    detach(model)
    assert torch.equal(other(x), with_adapter)
    assert not torch.equal(model(x), with_adapter)


def test_plain_linears_have_adapters_too():
    model, x = Model(), drawn(3, IN, seed=5)
    given, before = factors(), model(x)
    attach(model, {"proj": given})
    torch.testing.assert_close(model(x), before + 1.5 * (x @ given.a.T) @ given.b.T)


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ({"proj": factors(), "other": factors()}, "the model has no such linear"),
        ({"proj": factors(out=OUT + 1)}, r"\(13, 3\), and the linear is \(12, 40\)"),
        ({"proj": Factors(drawn(RANK, IN), drawn(OUT, RANK + 1), 1.0)}, "adapter of another model"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(adapter, says):
    model = packed_model()
    attach(model, {"proj": factors()})
    with pytest.raises(InputError, match=says):
        attach(model, adapter)
    assert torch.equal(loras(model)["proj"].a, factors().a)
