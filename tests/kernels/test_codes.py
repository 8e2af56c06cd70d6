"""The CPU kernel against float64: every format, width and number, few and many tokens, every dtype,
instruction set and number of threads.
"""

import dataclasses

import pytest
import torch

from bivlm.formats import FORMATS
from bivlm.formats.base import PackedTensor
from bivlm.kernels import codes, native_product
from bivlm.kernels.reference import ReferenceProduct
from bivlm.native.library import library, status
from made_weights import made_planes
from weights import NATIVE, Draw, factors, levels, planes, uniform

pytestmark = pytest.mark.skipif(library() is None, reason=status().why)
TOKENS = (1, 3, 16, 40, 150)  # called and unpacked, in every dtype
FLOAT, INT8 = 1e-5, 2e-2  # largest errors, relative to the largest output

every = pytest.mark.parametrize("weight", NATIVE.values(), ids=NATIVE)


def inputs(weight, tokens, dtype=torch.float32):
    rows, columns = weight.shape
    draw = Draw(tokens, columns)
    return draw.normal(tokens, columns).to(dtype), draw.normal(rows).to(dtype)


def error(y, x, weight, bias=None):
    """The largest error, relative to the largest output, of which rounding to y's dtype is no part."""
    exact = x.double() @ weight.dequantize().double().T
    exact = exact if bias is None else exact + bias.double()
    rounding = 0.0 if y.dtype == torch.float32 else torch.finfo(y.dtype).eps / 2
    assert y.shape == exact.shape
    return float((y.double() - exact).abs().max() / exact.abs().max()) - rounding


@every
def test_float_activations(weight, instruction_set):
    product = codes.product(weight.encode())
    assert product.kernel == "native"
    for tokens in TOKENS:
        x, bias = inputs(weight, tokens)
        assert error(product(x, bias), x, weight, bias) < FLOAT
        assert error(product(x, None), x, weight) < FLOAT


def product_limit(product, dtype):
    """The most tokens for one call of the library; of two factors each has the same."""
    return getattr(product, "right", product).few.of(dtype, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every
def test_half_precision_activations(weight, dtype, instruction_set):
    """Few tokens: the sums are exact to float32, the result is rounded once. Many: the weight is rounded as
    well, as in the reference kernel.
    """
    product = codes.product(weight.encode())
    for tokens in TOKENS:
        x, bias = inputs(weight, tokens, dtype)
        y = product(x, bias)
        assert y.dtype == dtype
        assert error(y, x, weight, bias) < (
            FLOAT if tokens <= product_limit(product, dtype) else torch.finfo(dtype).eps
        )


@every
def test_int8_activations(weight, instruction_set):
    product = codes.product(weight.encode())
    for tokens in TOKENS:
        x, bias = inputs(weight, tokens)
        assert error(product(x, bias, True), x, weight, bias) < INT8


@pytest.mark.parametrize("exponent", [-126, -120, -114, -100, 100])
@pytest.mark.parametrize("alphabet", [2, 4, 6, 16])
def test_int8_activations_and_levels_of_any_size(alphabet, exponent, instruction_set):
    """Their steps are in proportion, down to the smallest normal numbers."""
    weight = dataclasses.replace(
        levels(9, 70, alphabet=alphabet, symmetric=True, tail=0.05), scale=torch.tensor(2.0**exponent)
    )
    product, (x, _) = codes.product(weight.encode()), inputs(weight, 5)
    assert error(product(x, None, True), x, weight) < INT8


@every
def test_any_number_of_threads_gives_the_same(weight, threads):
    product, found = codes.product(weight.encode()), []
    x, bias = inputs(weight, 5)
    for count in (1, 2, 3, 4):
        threads(count)
        found.append(product(x, bias))
    assert all(torch.equal(y, found[0]) for y in found)
    assert error(found[0], x, weight, bias) < FLOAT


def shifted(tensor):
    """The same numbers, one element further on in a memory of its own: at an odd address where elements are
    bytes.
    """
    place = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape)
    return place.copy_(tensor)


@every
def test_unaligned_memory(weight, instruction_set):
    packed = weight.encode()
    packed = dataclasses.replace(
        packed, tensors={name: shifted(tensor) for name, tensor in packed.tensors.items()}
    )
    product = codes.product(packed)
    for tokens in (1, 4, 40):
        x, bias = map(shifted, inputs(weight, tokens))
        assert error(product(x, bias), x, weight, bias) < FLOAT


def strided(tensor):
    """The same numbers with a gap between them."""
    return torch.stack([tensor, torch.full_like(tensor, 7)], -1).flatten(-2)[..., ::2]


@pytest.mark.parametrize(
    "name", ["levels 2 bits, groups of 128, tail", "uniform 3 bits", "planes, blocks of 128", "factors"]
)
def test_inputs_of_any_strides_and_shapes(name):
    weight = NATIVE[name]
    product, columns = codes.product(weight.encode()), weight.shape[1]
    for shape in ((2, 3, columns), (2, 30, columns)):
        x = Draw(*shape).normal(*shape)
        exact = x.double() @ weight.dequantize().double().T
        for given in (
            strided(x),
            x.transpose(0, 1).contiguous().transpose(0, 1),
            x[:, -1:],
            x[0],
            x[0, 0],
            x[:1, :1].expand(2, 3, -1),
        ):
            expected = given.double() @ weight.dequantize().double().T
            y = product(given, None)
            assert y.shape == expected.shape
            assert y.is_contiguous()
            assert float((y.double() - expected).abs().max() / exact.abs().max()) < FLOAT


@every
def test_no_tokens(weight):
    rows, columns = weight.shape
    product = codes.product(weight.encode())
    for shape in ((0,), (2, 0), (0, 3)):
        assert product(torch.empty(*shape, columns, dtype=torch.bfloat16), torch.zeros(rows)).shape == (
            *shape,
            rows,
        )


def test_a_bias_of_another_dtype():
    weight = NATIVE["uniform 2 bits, groups of 128"]
    x, bias = inputs(weight, 2, torch.bfloat16)
    assert error(codes.product(weight.encode())(x, bias.float()), x, weight, bias) < FLOAT


@pytest.mark.parametrize("name", ["levels 2 bits", "factors"])
def test_float64_goes_to_the_reference(name):
    weight = NATIVE[name]
    x, bias = inputs(weight, 3, torch.float64)
    y = codes.product(weight.encode())(x, bias)
    assert y.dtype == torch.float64
    assert torch.equal(y, ReferenceProduct(weight.encode())(x, bias))


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("name", ["levels 2 bits", "factors"])
def test_an_input_of_the_wrong_width_is_refused(name, tokens):
    weight = NATIVE[name]
    with pytest.raises((ValueError, RuntimeError), match=r"\d"):
        codes.product(weight.encode())(torch.zeros(tokens, weight.shape[1] - 1), None)


@pytest.mark.parametrize(
    "weight", [levels(600, 2000, tail=0.01), planes(600, 2048, group_size=128)], ids=["levels", "planes"]
)
def test_many_tokens_go_tile_by_tile(weight, monkeypatch):
    """A scratch of a tenth of the weight, and a last tile that is shorter."""
    monkeypatch.setattr(native_product, "SCRATCH_BYTES", 70 * 4 * weight.shape[1])
    x, bias = inputs(weight, 140)
    assert error(codes.product(weight.encode())(x, bias), x, weight, bias) < FLOAT


def test_the_library_refuses_aloud():
    """A code that the library returns becomes an error, not an output of unwritten memory."""
    weight = NATIVE["levels 2 bits"]
    product = codes.product(weight.encode())
    product.weight.struct.kind = 99
    with pytest.raises(RuntimeError, match="native kernel refused"):
        product(inputs(weight, 1)[0], None)


@pytest.mark.parametrize(
    "weight",
    [
        levels(64, 512, alphabet=4, group_size=128, tail=0.01),
        uniform(64, 512, group_size=128, zero="code"),
        planes(64, 512, group_size=128),
        made_planes(
            64, 512, 128, parts=2, salient_parts=1, salient=range(0, 512, 9), means=True, column_scales=True
        ),
        made_planes(64, 512, 128, bits=8, tail=range(0, 20000, 9)),
        factors(64, 512, 96),
    ],
    ids=["levels", "uniform", "planes", "planes, parts", "planes, tail", "factors"],
)
def test_packed_tensors_are_left_alone(weight):
    packed = weight.encode()
    copy = PackedTensor(
        packed.format,
        packed.shape,
        {name: tensor.clone() for name, tensor in packed.tensors.items()},
        packed.settings,
    )
    product = codes.product(packed)
    for tokens in TOKENS:
        product(inputs(weight, tokens)[0], None, True)
    assert all(torch.equal(tensor, copy.tensors[name]) for name, tensor in packed.tensors.items())
    assert FORMATS[packed.format].decode(packed) == weight
