"""Triton's kernel of `levels` against float64: every width and table, tails of both kinds."""

import pytest
import torch

from bivlm.kernels import triton_shared, triton_words
from on_triton import MARKS, check_product, params
from weights import NATIVE, levels

pytestmark = MARKS
WEIGHTS = {name: weight for name, weight in NATIVE.items() if name.startswith("levels")} | {
    "levels 2 bits, words of 32": levels(40, 512, symmetric=True, group_size=128),
    "levels 3 bits, groups, values": levels(5, 29, alphabet=8, group_size=16, tail=0.1, values=True),
    "levels of 3, groups, tail": levels(5, 22, alphabet=3, group_size=8, tail=0.1),
}
QUICK = ("levels 3 bits, groups, values", "levels of 3, groups, tail", "levels 1 x 1")
WIDE = ("levels, wide tail", "levels, wide tail of values")  # the interpreter takes half a minute


@params(WEIGHTS, QUICK)
def test_products(weight):
    check_product(weight, (1, 3) if weight.shape[1] > 10000 or weight.shape[1] < 50 else (1, 3, 70))


@params({name: weight for name, weight in WEIGHTS.items() if name not in WIDE}, ())
def test_columns_in_parts(weight, monkeypatch):
    """As on a device with many multiprocessors, and with more steps in a row."""
    monkeypatch.setattr(triton_shared, "processors", lambda device: 64)
    monkeypatch.setattr(triton_words, "WORDS_OF_ONE", 4)
    monkeypatch.setattr(triton_words, "SYMBOLS_OF_MANY", 16)
    check_product(weight, (1, 18))


@pytest.mark.parametrize("alphabet", [2, 3, 4, 5, 6, 8, 9, 11, 12, 16, 32, 64, 128, 256])
def test_words_hold_whole_symbols(alphabet):
    """As many symbols as lanes at most, and as many loads as the widest word needs at any bit."""
    stream = torch.zeros(3, 8, dtype=torch.uint8)
    for given in (stream, stream[:, :5]):
        words, codes = triton_words.words_of(given, alphabet)
        assert words.per <= words.lanes < 2 * words.per or words.per == 1
        assert codes.element_size() * 8 == (words.width if words.width == 32 else 8)
        worst = max(number * words.width % 8 for number in range(8))
        assert 8 * words.loads >= worst + words.width or words.width == 32
