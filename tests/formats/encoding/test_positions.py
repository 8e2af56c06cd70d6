"""Positions of a tail against an encoder that writes strings of bits, and streams that lead astray."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats.encoding.positions import pack_positions, positions_nbytes, unpack_positions

quick = settings(deadline=None, max_examples=80)


@st.composite
def places(draw):
    """A weight's size and some of its positions, ascending."""
    weights = draw(st.integers(1, 5000))
    return weights, sorted(draw(st.sets(st.integers(0, weights - 1), min_size=1, max_size=200)))


def stream(text):
    """A string of bits, first bit first, to bytes."""
    return [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]


def oracle(positions):
    gaps = [b - a - 1 for a, b in itertools.pairwise([-1, *positions])]
    lows = [
        stream("".join(format(gap % 2**k, f"0{k}b")[::-1] if k else "" for gap in gaps)) for k in range(14)
    ]
    highs = [stream("".join("0" * (gap >> k) + "1" for gap in gaps)) for k in range(14)]
    k = min(range(14), key=lambda k: len(lows[k]) + len(highs[k]))
    return lows[k], highs[k], k


@quick
@given(places())
def test_streams_are_those_of_the_specification_and_lead_back(drawn):
    weights, positions = drawn
    low, high, rice = pack_positions(torch.tensor(positions))
    assert (low.tolist(), high.tolist(), rice) == oracle(positions)
    assert unpack_positions(low, high, len(positions), rice, weights).tolist() == positions


@quick
@given(places(), st.integers(0, 300))
def test_bytes_stay_within_a_bound_that_never_falls(drawn, more):
    weights, positions = drawn
    low, high, _ = pack_positions(torch.tensor(positions))
    bound = positions_nbytes(len(positions), weights)
    assert len(low) + len(high) <= bound <= positions_nbytes(min(len(positions) + more, weights), weights)


def octets(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


def test_the_last_place_is_reached_and_not_passed():
    low, high, rice = pack_positions(torch.tensor([0, 9, 99]))
    assert unpack_positions(low, high, 3, rice, 100).tolist() == [0, 9, 99]
    with pytest.raises(ValueError, match="'tail_high' and 'tail_low' lead to position 99 in a weight of 99"):
        unpack_positions(low, high, 3, rice, 99)


def test_a_stream_that_is_broken_is_named():
    with pytest.raises(ValueError, match=r"^'tail_high': 4 ones where there are 3 numbers"):
        unpack_positions(octets(0x07), octets(0x69), 3, 2, 24)
    with pytest.raises(ValueError, match=r"^'tail_low': a bit after the last field"):
        unpack_positions(octets(0x47), octets(0x29), 3, 2, 24)


def test_gaps_far_beyond_do_not_overflow():
    """Quotients of a hostile file shifted by 32 bits would leave int64 if they were added up as tensors."""
    high = torch.zeros(1 << 10, dtype=torch.uint8)
    high[-1] = 1
    with pytest.raises(ValueError, match=r"lead to position \d+ in a weight of 4"):
        unpack_positions(octets(255, 255, 255, 255), high, 1, 32, 4)
