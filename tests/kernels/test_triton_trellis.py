"""Triton's kernel of `trellis` against float64: every window and mix of bits, one, few and many tokens,
columns in parts, single rows.
"""

import pytest
import torch

from bivlm.formats.encoding.rotation import rotate, signs_of
from bivlm.kernels import triton_rotation, triton_shared
from on_triton import DEVICE, FLOAT, MARKS, check_product, check_rows, params
from trellis_weights import trellis_weight
from weights import Draw

pytestmark = MARKS
WEIGHTS = {
    "2 bits": trellis_weight(200, 512),
    "1 bit, odd sizes": trellis_weight(75, 333, (1,)),
    "3 bits, not rotated": trellis_weight(64, 200, (3,), rotated=False),
    "4 bits, fitted": trellis_weight(130, 256, (4,), fitted=True),
    "mixed": trellis_weight(144, 576, (2, 1, 0, 3, 4)),
    "mixed, odd": trellis_weight(81, 99, (2, 1, 0, 3, 4)),
    "no bits": trellis_weight(20, 48, (0,)),
    "12-bit window": trellis_weight(100, 300, (2, 1), window=12),
    "12-bit window, 3 bits": trellis_weight(17, 40, (3,), window=12),
    "16-bit window": trellis_weight(100, 300, (3, 2), window=16, fitted=True),
    "16-bit window, 4 bits": trellis_weight(70, 30, (4, 0), window=16),
    "1 x 1": trellis_weight(1, 1, (1,)),
    "a slice of blocks": trellis_weight(81, 144, (2, 1, 0, 3, 4), blocks=3).slice_columns(48, 144),
    "12-bit window, 4 blocks": trellis_weight(100, 320, (2, 1), window=12, blocks=4),
}
QUICK = ("mixed, odd", "1 x 1", "a slice of blocks")


@params(WEIGHTS, QUICK)
def test_products(weight):
    check_product(weight, (1, 3) if len(weight.row_scale) < 100 else (1, 18, 70))


@params(WEIGHTS, ("16-bit window, 4 bits",))
def test_columns_in_parts(weight, monkeypatch):
    """As on a device with many multiprocessors."""
    monkeypatch.setattr(triton_shared, "processors", lambda device: 64)
    check_product(weight, (1,))


@params(WEIGHTS, ("no bits", "12-bit window, 3 bits", "a slice of blocks"))
def test_rows(weight):
    check_rows(weight)


@pytest.mark.parametrize(
    ("columns", "blocks"),
    [
        *((1, 1), (2, 1), (7, 1), (48, 1), (172, 1), (576, 1), (96, 3), (576, 4)),
        pytest.param(1021, 1, marks=pytest.mark.slow),
    ],
)
def test_the_rotation(columns, blocks):
    """Widths of one matrix, of two, of a large prime; several blocks; there and back."""
    x, signs = Draw(columns).normal(2, columns), signs_of(9, columns)
    rotation = triton_rotation.Rotation(signs, blocks, torch.device(DEVICE))
    turned = rotation.rotate(x.to(DEVICE), torch.float32)
    expected = rotate(x.double(), signs, blocks)
    assert float((turned.cpu() - expected).abs().max() / expected.abs().max()) < FLOAT
    assert float((rotation.rotate_back(turned).cpu() - x).abs().max() / x.abs().max()) < FLOAT


def test_the_two_matrices_of_a_width():
    """The orders of both, for widths of models."""
    for columns, orders in ((4096, (64, 64)), (11008, (128, 86)), (576, (32, 18)), (1021, (1, 1021))):
        assert tuple(map(len, triton_rotation._matrices(columns, torch.device("cpu")))) == orders
