"""Triton's kernel of `factors` against float64."""

from bivlm.kernels import triton_shared, triton_words
from on_triton import MARKS, check_product, params
from weights import NATIVE, factors

pytestmark = MARKS
WEIGHTS = {name: weight for name, weight in NATIVE.items() if name.startswith("factors")} | {
    "words of 32": factors(33, 128, 64),
}


@params(WEIGHTS, ("factors, exponent",))
def test_products(weight):
    check_product(weight, (1, 3) if weight.rank < 50 else (1, 70))


@params(WEIGHTS, ())
def test_columns_in_parts(weight, monkeypatch):
    """As on a device with many multiprocessors, and with more steps in a row."""
    monkeypatch.setattr(triton_shared, "processors", lambda device: 64)
    monkeypatch.setattr(triton_words, "WORDS_OF_ONE", 1)
    monkeypatch.setattr(triton_words, "SYMBOLS_OF_MANY", 16)
    check_product(weight, (1, 18))
