"""Triton's kernel of `uniform` against float64: every width, kind of zero point and number, single rows."""

import dataclasses
import math

import pytest
import torch

from bivlm.formats.encoding.numbers import Numbers
from bivlm.kernels import triton_shared, triton_words
from on_triton import FLOAT, MARKS, check_product, check_rows, error, inputs, params, product_of
from weights import NATIVE, uniform

pytestmark = MARKS
WEIGHTS = {name: weight for name, weight in NATIVE.items() if name.startswith("uniform")} | {
    "uniform 2 bits, words of 32": uniform(40, 512, group_size=128, zero="code"),
}
QUICK = ("uniform of 5", "uniform 2 bits, column scale", "uniform 1 x 1")


@params(WEIGHTS, QUICK)
def test_products(weight):
    check_product(weight, (1, 18) if weight.shape[1] < 200 else (1, 70))


@params(WEIGHTS, ())
def test_columns_in_parts(weight, monkeypatch):
    """As on a device with many multiprocessors, and with more steps in a row."""
    monkeypatch.setattr(triton_shared, "processors", lambda device: 64)
    monkeypatch.setattr(triton_words, "WORDS_OF_ONE", 4)
    monkeypatch.setattr(triton_words, "SYMBOLS_OF_MANY", 16)
    check_product(weight, (1, 18))


@params(WEIGHTS, ("uniform 6 bits", "uniform 2 bits, column scale"))
def test_rows(weight):
    check_rows(weight)


@pytest.mark.parametrize(("size", "exponent"), [(3e4, 0), (1e-4, 0), (1e30, -100)])
def test_scales_of_any_size_fit_a_tile_of_float16(size, exponent):
    """A code of 255 times a scale of 30 000 is no float16; inputs of a suitable size make outputs that
    are.
    """
    weight = uniform(5, 40, alphabet=256, bits=32, group_size=8, zero="free", exponent=exponent)
    weight = dataclasses.replace(weight, scales=Numbers.of(weight.scales.stored * size, 32))
    product, (x, _) = product_of(weight), inputs(weight, 3)
    assert error(product(x, None), x, weight) < FLOAT
    largest = float((x.cpu() @ weight.dequantize().T).abs().max())
    x = (x * 2.0 ** round(math.log2(1000 / largest))).half()
    assert error(product(x, None), x, weight) < torch.finfo(torch.float16).eps
