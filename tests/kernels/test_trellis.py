"""The CPU kernel of `trellis` against float64: every window and mix of bits, few and many tokens, every
dtype, instruction set, number of threads.
"""

import dataclasses

import pytest
import torch

from bivlm.formats import FORMATS
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.rotation import rotate, signs_of
from bivlm.formats.trellis import TrellisWeight
from bivlm.kernels import codes, native_product, trellis
from bivlm.kernels.reference import ReferenceProduct
from bivlm.kernels.table import KERNELS
from bivlm.native.library import library, status
from trellis_weights import trellis_weight
from weights import Draw

TOKENS = (1, 3, 9)
FLOAT, INT8 = 1e-5, 2e-2  # largest errors, relative to the largest output


WEIGHTS = {
    "2 bits": trellis_weight(200, 512),
    "1 bit, odd sizes": trellis_weight(75, 333, (1,)),
    "3 bits, not rotated": trellis_weight(64, 200, (3,), rotated=False),
    "4 bits, fitted": trellis_weight(130, 256, (4,), fitted=True),
    "mixed": trellis_weight(144, 576, (2, 1, 0, 3, 4)),
    "no bits": trellis_weight(20, 48, (0,)),
    "12-bit window": trellis_weight(100, 300, (2, 1), window=12),
    "16-bit window": trellis_weight(100, 300, (3, 2), window=16, fitted=True),
    "a slice of blocks": trellis_weight(81, 192, (2, 1, 0, 3, 4), blocks=4).slice_columns(48, 144),
}
every = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


@pytest.fixture(params=[1 << 20, 0], ids=["few tokens", "many tokens"])
def few(request, monkeypatch):
    """Both ways to multiply, for any number of tokens."""
    monkeypatch.setattr(native_product.FewTokens, "of", lambda *_: request.param)
    return request.param > 0


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
    return float((y.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)) - rounding


pytestmark = pytest.mark.skipif(library() is None, reason=status().why)


@every
def test_float_activations(weight, instruction_set, few):
    product = trellis.product(weight.encode())
    assert (product.kernel, product.why) == ("native", "")
    for tokens in TOKENS:
        x, bias = inputs(weight, tokens)
        assert error(product(x, bias), x, weight, bias) < FLOAT
        assert error(product(x, None), x, weight) < FLOAT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every
def test_half_precision_activations(weight, dtype, few):
    """Few tokens: exact to float32, rounded once. Many: rotated inputs and weights are rounded as well."""
    product = trellis.product(weight.encode())
    for tokens in TOKENS:
        x, bias = inputs(weight, tokens, dtype)
        y = product(x, bias)
        assert y.dtype == dtype
        assert error(y, x, weight, bias) < (FLOAT if few else torch.finfo(dtype).eps)


@every
def test_int8_activations(weight, instruction_set, few):
    product = trellis.product(weight.encode())
    for tokens in TOKENS:
        x, bias = inputs(weight, tokens)
        assert error(product(x, bias, True), x, weight, bias) < INT8


@pytest.mark.parametrize("name", ["2 bits", "mixed", "16-bit window"])
def test_any_number_of_threads_gives_the_same(name, threads):
    weight, found = trellis_weight(1000, 512) if name == "2 bits" else WEIGHTS[name], []
    product, (x, bias) = trellis.product(weight.encode()), inputs(weight, 5)
    for count in (1, 2, 3, 4):
        threads(count)
        found.append(product(x, bias))
    assert all(torch.equal(y, found[0]) for y in found)
    assert error(found[0], x, weight, bias) < FLOAT


def strided(tensor):
    """The same numbers with a gap between them."""
    return torch.stack([tensor, torch.full_like(tensor, 7)], -1).flatten(-2)[..., ::2]


def test_inputs_of_any_strides_and_shapes(few):
    weight = WEIGHTS["mixed"]
    product, columns = trellis.product(weight.encode()), weight.shape[1]
    for shape in ((2, 3, columns), (2, 30, columns), (0, columns), (3, 0, columns)):
        x = Draw(*shape).normal(*shape)
        for given in (strided(x), x.transpose(0, -2).contiguous().transpose(0, -2), x[..., -1:, :]):
            y = product(given, None)
            assert y.shape == (*given.shape[:-1], weight.shape[0])
            if given.numel():
                assert error(y, given, weight) < FLOAT
    assert error(product(torch.ones(columns), None), torch.ones(columns), weight) < FLOAT


def shifted(tensor):
    """The same numbers, one element further on in a memory of its own: at an odd address where elements are
    bytes.
    """
    return torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape).copy_(tensor)


@every
def test_unaligned_memory(weight, few):
    packed = weight.encode()
    packed = dataclasses.replace(
        packed, tensors={name: shifted(tensor) for name, tensor in packed.tensors.items()}
    )
    product = trellis.product(packed)
    for tokens in (1, 4):
        x, bias = map(shifted, inputs(weight, tokens))
        assert error(product(x, bias), x, weight, bias) < FLOAT


def test_a_bias_of_another_dtype():
    weight = WEIGHTS["2 bits"]
    x, bias = inputs(weight, 2, torch.bfloat16)
    assert error(trellis.product(weight.encode())(x, bias.float()), x, weight, bias) < FLOAT


def test_an_input_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match="takes"):
        trellis.product(WEIGHTS["2 bits"].encode())(torch.zeros(3, 511), None)


def test_many_tokens_go_strip_by_strip(monkeypatch, few):
    """A scratch of two strips, and a last tile that is shorter."""
    weight = WEIGHTS["2 bits"]
    monkeypatch.setattr(native_product, "SCRATCH_BYTES", 2 * 64 * 4 * 512)
    x, bias = inputs(weight, 5)
    assert error(trellis.product(weight.encode())(x, bias), x, weight, bias) < FLOAT


def test_the_library_refuses_aloud(few):
    """A code that the library returns becomes an error, not an output of unwritten memory."""
    weight = WEIGHTS["2 bits"]
    product = trellis.product(weight.encode())
    product.struct.window = 9
    with pytest.raises(RuntimeError, match="native kernel refused"):
        product(inputs(weight, 2)[0], None)


def test_how_many_tokens_are_few():
    """Rounded inputs cost the least; float32 ones save the slow product of whole matrices."""
    for few in (
        *trellis.FEW_TOKENS.values(),
        trellis.FEW_ELSEWHERE,
        *codes.FEW_TOKENS.values(),
        codes.FEW_ELSEWHERE,
    ):
        assert (
            16
            <= few.of(torch.bfloat16, False)
            <= min(few.of(torch.float16, True), few.of(torch.float32, False))
        )
        assert few.of(torch.float32, True) == few.full


@every
def test_packed_tensors_are_left_alone_and_memory_is_counted(weight, few):
    packed = weight.encode()
    copy = PackedTensor(
        packed.format,
        packed.shape,
        {name: tensor.clone() for name, tensor in packed.tensors.items()},
        packed.settings,
    )
    product = trellis.product(packed)
    for tokens in TOKENS:
        product(inputs(weight, tokens)[0], None, True)
    assert all(torch.equal(packed.tensors[name], tensor) for name, tensor in copy.tensors.items())
    rows, columns = weight.shape
    assert product.added_bytes == 4 * rows + (4 * columns if weight.rotated else 0)


@pytest.mark.parametrize(
    ("columns", "blocks"),
    [(1, 1), (2, 1), (3, 1), (48, 1), (97, 1), (256, 1), (576, 1), (1152, 1), (96, 3), (576, 4), (1152, 8)],
)
def test_the_library_rotates_as_the_format_says(columns, blocks, instruction_set):
    x, signs = Draw(3, columns).normal(3, columns), signs_of(9, columns)
    out = torch.empty(3, columns)
    assert (
        library().rotate(x.data_ptr(), columns, 3, 0, columns, blocks, signs.data_ptr(), out.data_ptr(), 2)
        == 0
    )
    exact = rotate(x.double(), signs, blocks)
    assert float((out - exact).norm()) <= 1e-6 * float(exact.norm())


def test_without_the_library_the_reference_multiplies(monkeypatch):
    monkeypatch.setattr("bivlm.native.library._search", lambda: "it is gone")
    product = trellis.product(WEIGHTS["2 bits"].encode())
    assert (product.kernel, product.why, product.added_bytes) == ("reference", "it is gone", 0)


def test_float64_goes_to_the_reference():
    weight = WEIGHTS["mixed"]
    x, bias = inputs(weight, 3, torch.float64)
    y = trellis.product(weight.encode())(x, bias)
    assert y.dtype == torch.float64
    assert torch.equal(y, ReferenceProduct(weight.encode())(x, bias))


def test_it_is_the_kernel_of_the_format():
    assert FORMATS["trellis"] is TrellisWeight
    assert KERNELS["trellis", "cpu"] is trellis.product
