"""Triton's kernels on a card: CUDA graphs, torch's compiler, nothing that waits for the device, and half
precision against the reference kernel.
"""

import pytest
import torch
from torch import nn

from bivlm.kernels.reference import ReferenceProduct
from bivlm.packed.embedding import PackedEmbedding
from bivlm.packed.linear import PackedLinear
from on_triton import moved, params, product_of
from trellis_weights import trellis_weight
from weights import Draw, factors, levels, planes, uniform

pytestmark = pytest.mark.gpu
WEIGHTS = {
    "factors": factors(192, 640, 128),
    "levels": levels(192, 640, symmetric=True, group_size=128, tail=0.01),
    "planes": planes(192, 640, group_size=128),
    "planes, tail": planes(192, 640, group_size=128, tail=500),
    "trellis": trellis_weight(200, 640, (2, 3)),
    "uniform": uniform(192, 640, group_size=128, zero="code"),
}
every = params(WEIGHTS, WEIGHTS)


def block_of(weight, dtype=torch.bfloat16):
    bias = Draw(1).normal(weight.shape[0]).to(dtype)
    return nn.Sequential(PackedLinear(weight.encode(), bias, dtype), nn.GELU()).cuda()


def x_of(weight, tokens, dtype=torch.bfloat16):
    return Draw(tokens).normal(1, tokens, weight.shape[1]).to("cuda", dtype)


@every
@pytest.mark.parametrize("tokens", [1, 5, 300])
def test_a_graph_captures_the_product(weight, tokens):
    block, x = block_of(weight), x_of(weight, tokens)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):  # every kernel prepares its weight and is compiled
            block(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = block(x)
        for seed in (7, 8):
            x.copy_(Draw(seed).normal(*x.shape))
            graph.replay()
            assert torch.equal(y, block(x))


@pytest.mark.parametrize("name", ["trellis", "uniform"])
def test_a_graph_captures_the_embedding(name):
    weight = WEIGHTS[name]
    embedding = PackedEmbedding(weight.encode(), None, torch.bfloat16).cuda()
    ids = torch.tensor([[3, 5]], device="cuda")
    with torch.inference_mode():
        embedding(ids)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            rows = embedding(ids)
        ids.fill_(17)
        graph.replay()
        assert torch.equal(rows, embedding(ids))
        assert torch.allclose(rows[0, 0].cpu().float(), weight.dequantize()[17], rtol=1e-2, atol=1e-2)


@every
def test_nothing_waits_for_the_device(weight):
    product, x = product_of(weight), x_of(weight, 1)
    product(x, None)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        product(x, None)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@every
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(weight, mode):
    torch.compiler.reset()
    block = block_of(weight)
    compiled = torch.compile(block, fullgraph=True, mode=mode)
    with torch.inference_mode():
        for tokens in (1, 1, 40):
            x = x_of(weight, tokens)
            assert torch.allclose(compiled(x), block(x), rtol=1e-2, atol=1e-2)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, 16, 200])
def test_half_precision_against_the_reference(weight, dtype, tokens):
    x = x_of(weight, tokens, dtype)
    expected = ReferenceProduct(moved(weight.encode()))(x, None).float()
    found = product_of(weight)(x, None).float()
    assert float((found - expected).abs().max() / expected.abs().max()) < 3 * torch.finfo(dtype).eps


def test_calls_do_not_take_more_and_more_memory():
    product, x = product_of(WEIGHTS["trellis"]), x_of(WEIGHTS["trellis"], 1)
    product(x, None)
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        product(x, None)
    assert torch.cuda.memory_allocated() == before
