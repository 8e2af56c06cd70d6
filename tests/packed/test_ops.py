"""`bivlm::linear` keeps what torch asks of an operator, and packed linears survive torch's compiler, export
and inference mode.
"""

import gc
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from bivlm.packed.linear import PackedLinear
from bivlm.packed.ops import LINEAR
from weights import NATIVE, Draw

WEIGHTS = {
    name: NATIVE[name]
    for name in (
        "levels 2 bits, groups of 128, tail",
        "uniform 3 bits",
        "planes, blocks of 128",
        "factors",
        "planes, tail",
    )
}
every = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests():
    torch.compiler.reset()


def linear_of(weight, bias=True):
    return PackedLinear(weight.encode(), Draw(1).normal(weight.shape[0]) if bias else None, torch.float32)


def x_of(weight, *shape):
    return Draw(2).normal(*shape, weight.shape[1])


@every
@pytest.mark.parametrize("tokens", [1, 40])
def test_torchs_own_check(weight, tokens):
    linear = linear_of(weight)
    for x in (x_of(weight, tokens), x_of(weight, 2, tokens).transpose(0, 1).bfloat16()):
        for bias in (linear.bias, None):
            torch.library.opcheck(LINEAR, (x, bias, linear._handle, weight.shape[0], False))


@every
def test_inference_mode_and_no_grad(weight):
    linear, x = linear_of(weight), x_of(weight, 2, 3)
    expected = linear(x)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert torch.equal(linear(x), expected)


@every
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_in_one_graph(weight, backend):
    block = nn.Sequential(linear_of(weight), nn.ReLU())
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    with torch.inference_mode():
        for shape in ((1, 1), (2, 3), (2, 40)):
            x = x_of(weight, *shape)
            assert torch.equal(compiled(x), block(x))


def test_one_graph_serves_every_layer_of_a_kind():
    """Dynamo's limit of recompilations is 8; a model has more layers than that."""
    weight = WEIGHTS["uniform 3 bits"]
    x = x_of(weight, 2)
    counter = CompileCounter()
    for scale in range(1, 12):
        linear = linear_of(weight)
        linear.scales = linear.scales * scale
        compiled = torch.compile(linear, backend=counter, fullgraph=True)
        with torch.inference_mode():
            assert torch.equal(compiled(x), linear(x))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what torch imports of itself
@every
def test_compiled_to_machine_code(weight):
    block = nn.Sequential(linear_of(weight), nn.GELU())
    compiled = torch.compile(block, fullgraph=True)
    with torch.inference_mode():
        for shape in ((1, 1), (2, 3), (2, 40)):
            x = x_of(weight, *shape)
            assert torch.allclose(compiled(x), block(x), atol=1e-5)


def test_a_compiled_graph_sees_a_new_weight():
    weight = WEIGHTS["uniform 3 bits"]
    linear, x = linear_of(weight), x_of(weight, 2)
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    before = compiled(x)
    linear.codes = linear.codes.flip(0).contiguous()
    assert torch.equal(compiled(x), linear(x))
    assert not torch.equal(compiled(x), before)


def test_a_graph_does_not_reach_a_weight_that_is_gone():
    weight = WEIGHTS["uniform 3 bits"]
    linear = linear_of(weight)
    handle = linear._handle
    del linear
    gc.collect()
    with pytest.raises(RuntimeError, match="compile the model again"):
        LINEAR(x_of(weight, 1), None, handle, weight.shape[0], False)


def test_shapes_without_numbers():
    weight = WEIGHTS["levels 2 bits, groups of 128, tail"]
    y = LINEAR(
        torch.empty(2, 3, weight.shape[1], dtype=torch.float16, device="meta"),
        None,
        torch.tensor(0),
        weight.shape[0],
        False,
    )
    assert (tuple(y.shape), y.dtype) == ((2, 3, weight.shape[0]), torch.float16)


def test_one_openmp_runtime():
    """The library joins the runtime that torch brought: two would fight for the cores."""
    script = (
        "import torch; from bivlm.native.library import library; library(); torch.ones(99, 99) @"
        " torch.ones(99, 99)\nimport pathlib; maps ="
        " pathlib.Path('/proc/self/maps')\nprint(len({line.split()[-1] for line in"
        " maps.read_text().splitlines() if 'gomp' in line or 'libomp' in line}) if maps.exists() else 1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1
