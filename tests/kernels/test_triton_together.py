"""Triton's one launch for several weights against float64: unlike bits, biases, products that go alone, rows
that share a weight, inputs that are the same memory.
"""

import pytest
import torch

from bivlm.kernels import triton_together
from bivlm.kernels.together import Part, multiply
from on_triton import DEVICE, FLOAT, HALF, MARKS, error, product_of
from trellis_weights import trellis_weight
from weights import Draw, levels

pytestmark = MARKS
GROUPS = {
    "trellis": [
        trellis_weight(81, 96, (2, 1, 0)),
        trellis_weight(81, 96, (4, 3)),
        trellis_weight(81, 96, (1,), fitted=True),
    ],
    "levels": [levels(40, 100, alphabet=4, symmetric=True), levels(40, 100, alphabet=4, symmetric=True)],
    "not rotated, and alone": [
        trellis_weight(40, 64, rotated=False),
        levels(40, 64, tail=0.05),
        trellis_weight(40, 64, (3,)),
        trellis_weight(40, 64, (1, 2), rotated=False),
        levels(40, 64, alphabet=2, symmetric=True),
    ],
    "12-bit window, odd sizes": [trellis_weight(17, 33, (k,), window=12) for k in (1, 2, 3)],
    "levels in groups": [
        levels(70, 96, alphabet=8, group_size=32),
        levels(70, 96, alphabet=8, group_size=32),
    ],
}
QUICK = ("trellis", "levels")
some = pytest.mark.parametrize(
    "weights",
    [pytest.param(g, id=n, marks=() if n in QUICK else pytest.mark.slow) for n, g in GROUPS.items()],
)


def check(weights, rows, dtype, biased, x=None):
    out, columns = weights[0].shape
    draw = Draw(sum(rows), columns)
    x = draw.normal(sum(rows), columns).to(DEVICE, dtype) if x is None else x
    biases = [draw.normal(out).to(DEVICE, dtype) if biased else None for _ in weights]
    parts = [Part(product_of(w), b, n, False) for w, b, n in zip(weights, biases, rows, strict=True)]
    y = multiply(parts, x, out)
    assert (y.shape, y.dtype) == ((len(x), out), dtype)
    limit = FLOAT if dtype == torch.float32 else torch.finfo(dtype).eps
    for own, given, weight, bias in zip(y.split(rows), x.split(rows), weights, biases, strict=True):
        assert error(own, given, weight, bias) < limit


@some
def test_one_token(weights):
    """All weights with the same row of x."""
    x = Draw(1).normal(1, weights[0].shape[1]).to(DEVICE).expand(len(weights), -1)
    check(weights, [1] * len(weights), torch.float32, False, x)


@pytest.mark.slow
@some
def test_some_rows_for_each(weights):
    rows = [1 + i % 2 for i in range(len(weights))]
    check(weights, rows, torch.float32, True)
    for dtype in HALF:
        check(weights, rows, dtype, True)


def test_many_rows_go_alone():
    most = triton_together.MOST_ROWS
    check(GROUPS["levels"], [most + 1, 2], torch.float32, False)
    product = product_of(GROUPS["levels"][0])
    assert triton_together.key_of(product, most) is not None
    assert triton_together.key_of(product, most + 1) is None


@pytest.mark.slow
def test_what_has_much_in_common_is_one_launch(monkeypatch):
    """Three weights of unlike bits: one launch, with one rotation."""
    launched = []
    counted = Counted(triton_together._trellis_rows, launched)
    monkeypatch.setattr(triton_together, "_trellis_rows", counted)
    test_one_token(GROUPS["trellis"])
    assert launched == [(2, 1, 3)]


class Counted:
    """A kernel that notes its grids."""

    def __init__(self, kernel, grids):
        self.kernel, self.grids = kernel, grids

    def __getitem__(self, grid):
        self.grids.append(grid)
        return self.kernel[grid]
