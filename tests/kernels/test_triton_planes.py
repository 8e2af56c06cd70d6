"""Triton's kernels of `planes` against float64: blocks, parts, salient columns, means, column scales,
tails.
"""

from bivlm.kernels import triton_shared, triton_words
from made_weights import made_planes
from on_triton import MARKS, check_product, params
from weights import NATIVE

pytestmark = MARKS
WEIGHTS = {name: weight for name, weight in NATIVE.items() if name.startswith("planes")} | {
    "everything": made_planes(
        6, 40, 16, parts=2, salient_parts=1, salient=(1, 5, 17, 39), bits=8, means=True, column_scales=True
    ),
    "salient parts": made_planes(6, 70, 16, salient_parts=2, salient=(0, 5, 17, 39), means=True),
    "both parts": made_planes(
        37, 70, 30, parts=2, salient_parts=2, salient=(0, 17, 69), bits=32, column_scales=True, exponent=9
    ),
    "tail, means": made_planes(
        5, 40, 30, bits=8, means=True, column_scales=True, tail=range(0, 200, 7), exponent=-5
    ),
    "tail": made_planes(9, 80, 80, tail=range(0, 720, 7)),
    "exponent": made_planes(9, 80, 80, exponent=3),
}
QUICK = ("everything", "tail, means", "planes, blocks of 8")


@params(WEIGHTS, QUICK)
def test_products(weight):
    check_product(weight, (1, 3))


@params(WEIGHTS, ())
def test_columns_in_parts(weight, monkeypatch):
    """As on a device with many multiprocessors, and with more steps in a row."""
    monkeypatch.setattr(triton_shared, "processors", lambda device: 64)
    monkeypatch.setattr(triton_words, "WORDS_OF_ONE", 4)
    monkeypatch.setattr(triton_words, "SYMBOLS_OF_MANY", 16)
    check_product(weight, (1, 70))
