"""`PackedLinear`: computes with the packed weight, moves with its model, keeps its packed tensors' dtypes,
prepares for its kernel once.
"""

import copy
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from bivlm.errors import InputError
from bivlm.formats import FORMATS
from bivlm.kernels.reference import ReferenceProduct
from bivlm.kernels.table import KERNELS, kernel_for
from bivlm.packed.linear import PackedLinear, packed_linears, replace_linear
from bivlm.packed.module import expand_weights, prepared_bytes, set_activations
from bivlm.quantizers import GPTQ, QVLA, BiVLM, Sign
from bivlm.types import LinearStats

QUANTIZERS = {"levels": BiVLM(), "planes": Sign(), "rows": QVLA(bits=3.0), "uniform": GPTQ()}


def packed_of(kind, out=12, columns=40):
    weight = 0.1 * torch.randn(out, columns, generator=torch.Generator().manual_seed(0))
    return QUANTIZERS[kind].quantize(weight, LinearStats({"text": torch.eye(columns)}, {"text": 1})).encode()


def x_of(columns=40, dtype=torch.float32):
    return torch.randn(2, 5, columns, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_same(y, expected):
    """Equal but for the rounding of sums and, in half precision, of weights."""
    assert y.dtype == expected.dtype
    assert float((y - expected).abs().max() / expected.abs().max()) < (
        1e-5 if y.dtype == torch.float32 else 2 * torch.finfo(y.dtype).eps
    )


class Model(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(40, 12, bias=bias)])
        self.head = nn.Linear(12, 3)


def test_every_format_has_a_kernel_on_the_cpu_and_on_cards_and_the_reference_elsewhere():
    assert set(KERNELS) == {(name, device) for name in FORMATS for device in ("cpu", "cuda")}
    others = [kernel_for(name, device) for name in FORMATS for device in ("mps", "xpu")]
    assert set(others) == {ReferenceProduct}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_computes_with_the_decoded_weight(kind, bias, dtype):
    model = Model(bias).to(dtype)
    linear = replace_linear(model, "inner.0", packed_of(kind))
    weight = FORMATS[kind].decode(packed_of(kind)).dequantize().to(dtype)
    assert_same(linear(x_of(dtype=dtype)), nn.functional.linear(x_of(dtype=dtype), weight, linear.bias))
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
    assert_same(linear(x_of()), before)


def test_the_state_dict_holds_the_packed_tensors_under_their_names():
    linear = PackedLinear(packed_of("levels"), None, torch.float32)
    assert linear.state_dict().keys() == packed_of("levels").tensors.keys()


def test_the_stand_in_for_the_weight_takes_no_memory():
    weight = PackedLinear(packed_of("levels"), None, torch.float16).weight
    assert (tuple(weight.shape), weight.dtype) == ((12, 40), torch.float16)
    assert weight.untyped_storage().nbytes() == 2


def test_the_stand_in_is_nothing_to_compute_with():
    """NaN is seen; memory that nothing was written to may look like weights."""
    weight = PackedLinear(packed_of("levels"), None, torch.bfloat16).weight
    assert bool(weight.isnan().all())
    assert bool((x_of().bfloat16() @ weight.T).isnan().all())


def test_many_threads_prepare_a_weight_once(monkeypatch):
    """They come at the same time, and wait for the first."""
    linear, made, count = PackedLinear(packed_of("levels"), None, torch.float32), [], 8
    together, kernel = threading.Barrier(count), kernel_for("levels", "cpu")

    def slow(packed):
        time.sleep(0.05)
        made.append(kernel(packed))
        return made[-1]

    def call():
        together.wait()
        return linear(x_of())

    monkeypatch.setattr("bivlm.packed.module.kernel_for", lambda *_: slow)
    with ThreadPoolExecutor(count) as pool:
        found = [one.result() for one in [pool.submit(call) for _ in range(count)]]
    assert len(made) == 1
    assert all(torch.equal(y, found[0]) for y in found)


def test_a_buffer_that_is_replaced_meanwhile_is_seen(monkeypatch):
    """A thread prepares the old weight while another puts in a new one."""
    linear, packed = PackedLinear(packed_of("levels"), None, torch.float32), packed_of("levels")
    codes = packed.tensors["codes"].flip(0).contiguous()
    changed = type(packed)(packed.format, packed.shape, {**packed.tensors, "codes": codes}, packed.settings)
    begun, replaced, kernel = threading.Event(), threading.Event(), kernel_for("levels", "cpu")

    def slow(packed):
        begun.set()
        assert replaced.wait(10)
        return kernel(packed)

    monkeypatch.setattr("bivlm.packed.module.kernel_for", lambda *_: slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(linear, x_of())
        assert begun.wait(10)
        linear.codes = codes
        replaced.set()
        first.result()
    expected = nn.functional.linear(x_of(), FORMATS["levels"].decode(changed).dequantize())
    assert_same(linear(x_of()), expected)


def test_a_weight_of_another_shape_is_refused_by_the_modules_name():
    model = nn.ModuleDict({"proj": nn.Linear(41, 12)})
    with pytest.raises(
        InputError, match=r"the packed weight of proj is \(12, 40\), and the model's is \(12, 41\)"
    ):
        replace_linear(model, "proj", packed_of("levels"))
    assert isinstance(model["proj"], nn.Linear)


def test_a_weight_is_prepared_once():
    linear = PackedLinear(packed_of("levels"), None, torch.float32)
    linear(x_of())
    product = linear.product()
    linear(x_of())
    assert linear.product() is product
    assert prepared_bytes(nn.ModuleList([linear])) == product.added_bytes


def replace_buffer(linear, changed):
    linear.codes = changed.tensors["codes"]


def replace_past_the_module(linear, changed):
    linear._buffers["codes"] = changed.tensors["codes"]


def load_in_place(linear, changed):
    linear.load_state_dict(changed.tensors)


def load_by_assignment(linear, changed):
    linear.load_state_dict(changed.tensors, assign=True)


@pytest.mark.parametrize(
    "change",
    [replace_buffer, replace_past_the_module, load_in_place, load_by_assignment],
    ids=lambda change: change.__name__,
)
def test_another_weight_in_the_same_module_is_prepared_anew(change):
    linear, packed = PackedLinear(packed_of("levels"), None, torch.float32), packed_of("levels")
    before = linear(x_of())
    codes = packed.tensors["codes"].flip(0).contiguous()
    changed = type(packed)(packed.format, packed.shape, {**packed.tensors, "codes": codes}, packed.settings)
    change(linear, changed)
    expected = nn.functional.linear(x_of(), FORMATS["levels"].decode(changed).dequantize())
    assert_same(linear(x_of()), expected)
    assert not torch.equal(before, linear(x_of()))


def test_copies_stand_for_themselves():
    linear = PackedLinear(packed_of("levels"), torch.ones(12), torch.float32)
    expected, stream = linear(x_of()), io.BytesIO()
    torch.save(linear, stream)
    stream.seek(0)
    for other in (copy.deepcopy(linear), torch.load(stream, weights_only=False)):
        assert torch.equal(other(x_of()), expected)
        other.codes = other.codes.flip(0).contiguous()
        assert not torch.equal(other(x_of()), expected)
        assert torch.equal(linear(x_of()), expected)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_gradients_reach_the_input(kind):
    linear = PackedLinear(packed_of(kind), None, torch.float32)
    x = x_of().requires_grad_()
    linear(x).sum().backward()
    weight = FORMATS[kind].decode(packed_of(kind)).dequantize()
    assert torch.allclose(x.grad, weight.sum(0).expand_as(x), atol=1e-5)


def test_activations():
    model = Model(True)
    linear = replace_linear(model, "inner.0", packed_of("levels"))
    exact = linear(x_of()[:1])
    set_activations(model, "int8")
    rounded = linear(x_of()[:1])
    assert float((rounded - exact).abs().max() / exact.abs().max()) < 2e-2
    set_activations(model, "float")
    assert torch.equal(linear(x_of()[:1]), exact)
    with pytest.raises(InputError, match="needs one of float, int8"):
        set_activations(model, "int4")
