"""What Triton's products of all formats do with their inputs, and packed modules that run on them."""

import dataclasses

import pytest
import torch

from bivlm.formats import FORMATS
from bivlm.kernels import gpu, triton_shared
from bivlm.kernels.reference import ReferenceProduct
from bivlm.packed.embedding import PackedEmbedding
from bivlm.packed.linear import PackedLinear
from bivlm.packed.ops import LINEAR
from on_triton import DEVICE, FLOAT, INTERPRETED, MARKS, error, inputs, moved, product_of
from trellis_weights import trellis_weight
from weights import Draw, factors, levels, planes, uniform

pytestmark = MARKS
WEIGHTS = {
    "factors": factors(6, 17, 9),
    "levels": levels(6, 34, tail=0.05),
    "planes": planes(6, 32, group_size=16),
    "planes, tail": planes(6, 21, group_size=8, tail=12),
    "trellis": trellis_weight(18, 36, (2, 1)),
    "uniform": uniform(6, 34, group_size=16, zero="code"),
}
every = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


@every
def test_inputs_of_any_strides_and_shapes(weight):
    product, columns = product_of(weight), weight.shape[1]
    x = Draw(1).normal(2, 3, 2 * columns).to(DEVICE)[..., ::2]
    for given in (x, x.transpose(0, 1), x[0, 0], x[:1, :1].expand(2, 1, -1)):
        y = product(given, None)
        assert y.is_contiguous()
        assert error(y, given, weight) < FLOAT


@every
def test_packed_tensors_are_left_alone_at_any_address(weight):
    """Each tensor lies one element further on in a memory of its own: at an odd address where elements are
    bytes.
    """
    packed = weight.encode()
    shifted = {
        name: torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=DEVICE)[1:].view(tensor.shape)
        for name, tensor in packed.tensors.items()
    }
    for name, tensor in packed.tensors.items():
        shifted[name].copy_(tensor)
    product, (x, bias) = gpu.product(dataclasses.replace(packed, tensors=shifted)), inputs(weight, 1)
    assert error(product(x, bias), x, weight, bias) < FLOAT
    assert all(torch.equal(shifted[name].cpu(), tensor) for name, tensor in packed.tensors.items())


def test_inputs_that_other_kernels_take():
    """float64 on the reference kernel, a bias of another dtype, no tokens, int8 that is not used."""
    weight = WEIGHTS["uniform"]
    product, (x, bias) = product_of(weight), inputs(weight, 3, torch.float64)
    assert torch.equal(product(x, bias), ReferenceProduct(moved(weight.encode()))(x, bias))
    x, bias = x.half(), bias.float()
    assert error(product(x, bias, True), x, weight, bias) < torch.finfo(torch.float16).eps
    assert product(x[:0], None).shape == (0, weight.shape[0])


def test_inputs_that_are_refused():
    weight = WEIGHTS["uniform"]
    product, (x, _) = product_of(weight), inputs(weight, 2)
    with pytest.raises(ValueError, match="takes"):
        product(x[:, 1:], None)
    with pytest.raises(ValueError, match="the input is on meta"):
        product(x.to("meta"), None)


@every
def test_a_broken_weight_is_refused(weight):
    packed = moved(weight.encode())
    broken = dataclasses.replace(packed, shape=(packed.shape[0] + 64, packed.shape[1]))
    with pytest.raises(ValueError, match=packed.format):
        gpu.product(broken)


@every
def test_any_number_of_parts_gives_the_same_but_for_rounding(weight, monkeypatch):
    product, (x, bias) = product_of(weight), inputs(weight, 1)
    monkeypatch.setattr(triton_shared, "parts_of", lambda *_: 1)
    assert error(product(x, bias), x, weight, bias) < FLOAT
    again = product(x, bias)
    assert torch.equal(product(x, bias), again)


@every
def test_what_it_holds_is_counted(weight):
    """At least a factor for each row, and less than the weight itself in float32."""
    rows, columns = weight.shape
    assert 4 * rows <= product_of(weight).added_bytes < 4 * rows * columns


def on_the_device(module, monkeypatch):
    """A module as it is on the device; under the interpreter the CPU's kernels are Triton's."""
    if INTERPRETED:
        monkeypatch.setattr("bivlm.packed.module.kernel_for", lambda *_: gpu.product)
    return module.to(DEVICE)


@every
def test_a_packed_linear(weight, monkeypatch):
    bias = Draw(3).normal(weight.shape[0])
    linear = on_the_device(PackedLinear(weight.encode(), bias, torch.float32), monkeypatch)
    x = inputs(weight, 2)[0]
    with torch.inference_mode():
        assert error(linear(x), x, weight, bias) < FLOAT
    assert linear.product(DEVICE).kernel == "triton"
    if weight.format == "uniform":  # the operator is the same for all
        torch.library.opcheck(LINEAR, (x, linear.bias, linear._handle, weight.shape[0], False))


@pytest.mark.parametrize("name", ["trellis", "uniform", "levels"])
def test_a_packed_embedding(name, monkeypatch):
    """Formats without a kernel for rows unpack them as the reference does."""
    weight = WEIGHTS[name]
    embedding = on_the_device(PackedEmbedding(weight.encode(), None, torch.float32), monkeypatch)
    if INTERPRETED and hasattr(embedding.product(), "look_up"):  # which no index on the CPU would ask for
        monkeypatch.setattr(embedding, "unpack_rows", embedding.product().look_up)
    ids = torch.tensor([[0, 5], [2, 5]], device=DEVICE)
    expected = FORMATS[weight.format].decode(weight.encode()).dequantize()[ids.cpu()]
    assert torch.allclose(embedding(ids).cpu(), expected, atol=1e-4 * float(expected.abs().max()))
    assert torch.allclose(
        embedding.project(expected.to(DEVICE), None).cpu(),
        expected @ weight.dequantize().T,
        rtol=1e-4,
        atol=1e-4,
    )
