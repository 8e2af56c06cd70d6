"""`PackedLinear`: computes with the packed weight, moves with its model, keeps its packed tensors' dtypes."""

import pytest
import torch
from torch import nn

from bivlm.formats import FORMATS
from bivlm.kernels.linear import KERNELS, PackedLinear, expand_weights, packed_linears, replace_linear
from bivlm.quantizers import GPTQ, BiVLM, Sign
from bivlm.types import LinearStats

QUANTIZERS = {"levels": BiVLM(), "planes": Sign(), "uniform": GPTQ()}


def packed_of(kind, out=12, columns=40):
    weight = 0.1 * torch.randn(out, columns, generator=torch.Generator().manual_seed(0))
    return QUANTIZERS[kind].quantize(weight, LinearStats({"text": torch.eye(columns)}, {"text": 1})).encode()


def x_of(columns=40, dtype=torch.float32):
    return torch.randn(2, 5, columns, generator=torch.Generator().manual_seed(1)).to(dtype)


class Model(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(40, 12, bias=bias)])
        self.head = nn.Linear(12, 3)


def test_every_format_has_a_kernel_on_both_devices():
    assert set(KERNELS) == {(name, device) for name in FORMATS for device in ("cpu", "cuda")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_computes_with_the_decoded_weight(kind, bias, dtype):
    model = Model(bias).to(dtype)
    linear = replace_linear(model, "inner.0", packed_of(kind))
    weight = FORMATS[kind].decode(packed_of(kind)).dequantize().to(dtype)
    assert torch.equal(linear(x_of(dtype=dtype)), nn.functional.linear(x_of(dtype=dtype), weight, linear.bias))
    assert model.inner[0] is linear
    assert packed_linears(model) == {"inner.0": linear}


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_a_change_of_dtype_moves_the_bias_and_not_the_packed_tensors(kind):
    model = Model(True)
    linear = replace_linear(model, "inner.0", packed_of(kind))
    model.to(torch.bfloat16)
    assert linear.compute_dtype == linear.weight.dtype == linear.bias.dtype == torch.bfloat16
    for name, tensor in packed_of(kind).tensors.items():
        assert torch.equal(linear.packed.tensors[name], tensor)
        assert linear.packed.tensors[name].dtype == tensor.dtype
    assert linear(x_of(dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_expanded_weights_give_the_same_numbers(kind):
    model = Model(True)
    linear = replace_linear(model, "inner.0", packed_of(kind))
    before = linear(x_of())
    expand_weights(model)
    assert torch.equal(linear(x_of()), before)


def test_the_state_dict_holds_the_packed_tensors_under_their_names():
    linear = PackedLinear(packed_of("levels"), None, torch.float32)
    assert linear.state_dict().keys() == packed_of("levels").tensors.keys()


def test_the_stand_in_for_the_weight_takes_no_memory():
    weight = PackedLinear(packed_of("levels"), None, torch.float16).weight
    assert (tuple(weight.shape), weight.dtype) == ((12, 40), torch.float16)
    assert weight.untyped_storage().nbytes() == 2
