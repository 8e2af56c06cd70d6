"""Ranks: the same everywhere, or dealt out within a budget of bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bivlm.adapters.ranks import adapter_bits, ranks_within, same_rank
from bivlm.adapters.rounding import component_bits
from bivlm.errors import InputError

SHAPES = {"q": (64, 64), "k": (32, 64), "up": (256, 64), "down": (64, 256)}


def test_the_same_rank_is_capped_by_the_smaller_size():
    assert same_rank(SHAPES, 48) == {"q": 48, "k": 32, "up": 48, "down": 48}


def test_the_count_of_the_paper():
    """16 r (in + out) / (in out) bits per weight: 0.0625 at 4096², rank 8."""
    assert adapter_bits({"a": (4096, 4096)}, {"a": 8}, 16) / 4096**2 == 0.0625


@given(
    st.dictionaries(st.text(min_size=1), st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1),
    st.floats(1, 1e6),
    st.sampled_from([8, 16, 32]),
)
def test_a_budget_is_used_up_and_never_exceeded(shapes, budget, bits):
    cheapest = min(component_bits(shape, bits) for shape in shapes.values())
    if cheapest > budget:
        with pytest.raises(InputError, match="give more bits"):
            ranks_within(shapes, budget, bits)
        return
    ranks = ranks_within(shapes, budget, bits)
    left = budget - adapter_bits(shapes, ranks, bits)
    assert left >= 0
    assert all(0 < rank <= min(shapes[name]) for name, rank in ranks.items())
    more = [component_bits(shape, bits) for name, shape in shapes.items() if ranks.get(name, 0) < min(shape)]
    assert all(cost > left for cost in more)


def test_every_linear_gets_about_the_same_share():
    ranks = ranks_within(SHAPES, 40_000, 8)
    shares = [
        adapter_bits(SHAPES, {name: rank}, 8) / (SHAPES[name][0] * SHAPES[name][1])
        for name, rank in ranks.items()
    ]
    assert max(shares) - min(shares) < 0.5
    assert min(shares) > 0.5
