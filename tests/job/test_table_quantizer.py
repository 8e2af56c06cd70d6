"""What packs a table in so many bits."""

import pytest

from bivlm.job.tables import table_quantizer
from bivlm.quantizers import RTN, Trellis


@pytest.mark.parametrize(
    ("bits", "fed", "expected"), [(4, True, Trellis(bits=4)), (2.5, False, Trellis(bits=2.5, feedback=False))]
)
def test_up_to_four_bits_embeddings_are_a_trellis(bits, fed, expected):
    assert table_quantizer(bits, fed) == expected


def test_beyond_four_bits_embeddings_are_an_even_grid():
    for fed in (True, False):
        assert table_quantizer(6.0, fed) == RTN(bits=6, group_size=64, zero_point="code", scale_bits=8)
