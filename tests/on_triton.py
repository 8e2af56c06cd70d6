"""Triton's kernels in tests: on a card where there is one, or on the CPU under TRITON_INTERPRET=1, where the
interpreter cannot multiply bfloat16 tiles and the kernels take float32 in their place.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from weights import Draw

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
MARKS = [] if INTERPRETED else [pytest.mark.gpu]
TOKENS = (1, 3, 70)  # one, some of a tile, more than a tile
FLOAT = 1e-5  # largest error, relative to the largest output; half precision: the dtype's own
HALF = (torch.float16, torch.bfloat16)


def params(weights, quick):
    """The weights as parameters of a test; all but `quick` of them are slow."""
    marks = pytest.mark.slow
    return pytest.mark.parametrize(
        "weight",
        [
            pytest.param(weight, id=name, marks=[] if name in quick else marks)
            for name, weight in weights.items()
        ],
    )


def moved(packed):
    """A packed tensor on the device."""
    return replace(packed, tensors={name: tensor.to(DEVICE) for name, tensor in packed.tensors.items()})


def product_of(weight):
    from bivlm.kernels import gpu

    return gpu.product(moved(weight.encode()))


def inputs(weight, tokens, dtype=torch.float32):
    rows, columns = weight.shape
    draw = Draw(tokens, columns)
    return draw.normal(tokens, columns).to(DEVICE, dtype), draw.normal(rows).to(DEVICE, dtype)


def error(y, x, weight, bias=None):
    """The largest error, relative to the largest output, of which rounding to y's dtype is no part."""
    exact = x.double().cpu() @ weight.dequantize().double().T
    exact = exact if bias is None else exact + bias.double().cpu()
    rounding = 0.0 if y.dtype == torch.float32 else torch.finfo(y.dtype).eps / 2
    assert y.shape == exact.shape
    return float((y.double().cpu() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)) - rounding


def check_product(weight, tokens=TOKENS):
    """float32 with a bias and without, and both halves, against float64."""
    product = product_of(weight)
    assert (product.kernel, product.why) == ("triton", "")
    for count in tokens:
        x, bias = inputs(weight, count)
        assert error(product(x, bias), x, weight, bias) < FLOAT
        assert error(product(x, None), x, weight) < FLOAT
        for dtype in HALF:
            x, bias = inputs(weight, count, dtype)
            y = product(x, bias)
            assert y.dtype == dtype
            assert error(y, x, weight, bias) < torch.finfo(dtype).eps


def check_rows(weight):
    """Rows as they are looked up; NaN for those that there are not."""
    product, (rows, columns) = product_of(weight), weight.shape
    index = torch.tensor([[0, rows - 1, rows // 2], [0, rows, -1]], device=DEVICE)
    found, expected = product.look_up(index, torch.float32).cpu(), weight.dequantize()
    assert found.shape == (2, 3, columns)
    largest = float(expected.abs().max()) or 1.0
    known = index.cpu().flatten()[:4]
    assert float((found.flatten(0, 1)[:4] - expected[known]).abs().max()) < FLOAT * largest
    assert bool(found.flatten(0, 1)[4:].isnan().all())
    half = product.look_up(index[0, 0], torch.bfloat16)
    assert (half.shape, half.dtype) == ((columns,), torch.bfloat16)
    assert product.look_up(index[:, :0], torch.float32).shape == (2, 0, columns)
