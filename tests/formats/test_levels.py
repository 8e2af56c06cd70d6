"""`levels` against an encoder that writes strings of bits, and a dequantizer that is a numpy loop."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats import levels
from bivlm.formats.encoding import bits
from bivlm.formats.levels import LevelsWeight, levels_nbytes
from made_weights import made_levels as make

quick = settings(deadline=None, max_examples=80)


@st.composite
def weights(draw):
    rows, columns = draw(st.integers(1, 20)), draw(st.integers(1, 40))
    alphabet = draw(st.integers(2, 16))
    places = range(rows * columns)
    tail = draw(
        st.one_of(
            st.just(()),
            st.sets(st.sampled_from(places)),
            st.integers(1, len(places)).map(lambda n: places[-n:]),  # one cluster, up to everything
        )
    )
    return make(
        rows,
        columns,
        alphabet=alphabet,
        symmetric=alphabet % 2 == 0 and draw(st.booleans()),
        group_size=draw(st.integers(1, columns)),
        per_row=draw(st.booleans()),
        tail=tail,
        values=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32)),
    )


def stream(text):
    """A string of bits, first bit first, to bytes."""
    return [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]


def field(number, width):
    return format(number, f"0{width}b")[::-1] if width else ""


def streams_oracle(weight):
    """The uint8 tensors of the file by docs/format.md, bit by bit."""
    alphabet, n = weight.alphabet, weight.tail_positions.numel()
    codes, positions, tail_codes = (
        weight.codes.tolist(),
        weight.tail_positions.tolist(),
        weight.tail_codes.tolist(),
    )
    columns = len(codes[0])
    for position, code in zip(positions, tail_codes or [0] * n, strict=True):
        codes[position // columns][position % columns] = code if alphabet >= 4 else code // 2
    symbols, width = bits.RADIX[alphabet]
    words = range(0, columns, symbols)
    rows = [
        [sum(c * alphabet**i for i, c in enumerate(row[at : at + symbols])) for at in words] for row in codes
    ]
    written: dict[str, list] = {
        "codes": [stream("".join(field(word, width) for word in row)) for row in rows]
    }
    if n:
        gaps = [b - a - 1 for a, b in itertools.pairwise([-1, *positions])]
        lows = [stream("".join(field(gap % 2**k, k) for gap in gaps)) for k in range(13)]
        highs = [stream("".join("0" * (gap >> k) + "1" for gap in gaps)) for k in range(13)]
        k = min(range(13), key=lambda k: len(lows[k]) + len(highs[k]))
        written |= {"tail_low": lows[k], "tail_high": highs[k]}
    if tail_codes and alphabet < 4:
        written["tail_bits"] = stream("".join(str(code % 2) for code in tail_codes))
    return written


def dequantize_oracle(weight):
    rows, columns = weight.shape
    table, scale = weight.levels.numpy(), weight.scale.numpy()
    expanded = np.zeros((rows, columns), np.float32)
    for i, j in itertools.product(range(rows), range(columns)):
        levels_here = [float(level) for level in table[min(i, len(table) - 1), j // weight.group_size]]
        if weight.symmetric:
            levels_here = [-level for level in reversed(levels_here)] + levels_here
        expanded[i, j] = scale * np.float32(levels_here[weight.codes[i, j]])
    for entry, position in enumerate(weight.tail_positions.tolist()):
        i, j = divmod(position, columns)
        if len(weight.tail_values):
            expanded[i, j] = scale * np.float32(weight.tail_values[entry])
        else:
            level = weight.tail_levels[int(weight.tail_codes[entry])]
            expanded[i, j] = scale * np.float32(weight.tail_scale[i]) * np.float32(level)
    return expanded


@quick
@given(weights())
def test_decode_is_the_inverse_of_encode(weight):
    packed = weight.encode()
    assert LevelsWeight.decode(packed) == weight
    assert packed.shape == weight.shape == LevelsWeight.decode(packed).shape


@quick
@given(weights())
def test_bytes_are_those_of_the_specification(weight):
    packed = weight.encode()
    assert {
        name: tensor.tolist() for name, tensor in packed.tensors.items() if tensor.dtype == torch.uint8
    } == streams_oracle(weight)
    again = weight.encode()
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in packed.tensors.items())
    assert packed.settings == again.settings


@quick
@given(weights())
def test_dequantize_equals_the_loop(weight):
    expanded = weight.dequantize()
    assert expanded.dtype == torch.float32
    np.testing.assert_array_equal(expanded.numpy(), dequantize_oracle(weight))


def nbytes_bound(weight, tail):
    return levels_nbytes(
        weight.shape,
        weight.alphabet,
        weight.symmetric,
        weight.group_size,
        weight.levels.shape[0],
        tail,
        weight.tail_values.numel() > 0,
    )


@quick
@given(weights(), st.integers(0, 800))
def test_bytes_stay_within_the_bound(weight, more):
    n = weight.tail_positions.numel()
    nbytes = weight.encode().nbytes
    assert nbytes <= nbytes_bound(weight, n) <= nbytes_bound(weight, min(n + more, weight.codes.numel()))
    assert n or nbytes == nbytes_bound(weight, 0)


@pytest.mark.parametrize("alphabet", [2, 5, 6])
def test_blocks_of_rows_do_not_show(alphabet, monkeypatch):
    weight = make(9, 14, alphabet=alphabet, group_size=4, per_row=True, tail=(3, 77))
    whole = weight.dequantize()
    monkeypatch.setattr(levels, "_BLOCK", 2 * 14)
    assert torch.equal(weight.dequantize(), whole)


def test_codes_of_any_stride_are_encoded_alike():
    weight = make(6, 11, alphabet=10, tail=(0, 65))
    strided = dataclasses.replace(weight, codes=weight.codes.T.contiguous().T)
    assert not strided.codes.is_contiguous()
    assert LevelsWeight.decode(strided.encode()) == weight
    assert torch.equal(strided.dequantize(), weight.dequantize())


def test_equality_is_of_bits():
    weight = make(3, 5, alphabet=4, symmetric=True, tail=(2, 9))
    zeros = dataclasses.replace(weight, levels=torch.zeros_like(weight.levels))
    assert weight == dataclasses.replace(weight, codes=weight.codes.clone())
    assert zeros != dataclasses.replace(zeros, levels=-zeros.levels)
    assert weight != dataclasses.replace(weight, scale=weight.scale * 2)
    assert weight != dataclasses.replace(weight, tail_codes=(weight.tail_codes + 1) % 4)
    assert weight != "a weight"
    valued = make(3, 5, alphabet=4, tail=(2, 9), values=True)
    assert valued != dataclasses.replace(valued, tail_values=valued.tail_values * 2)


def test_an_entry_with_a_value_costs_two_bytes_and_its_position():
    """A sixteenth of the codes' bits are spent at places that need none: they are 0."""
    coded, valued = (
        make(8, 64, alphabet=4, tail=range(0, 512, 16), values=values) for values in (False, True)
    )
    assert valued.encode().nbytes - coded.encode().nbytes == 2 * 32 - 2 * 8 - 2 * 4
    assert valued.encode().settings["tail_kind"] == "values"
    assert "tail_kind" not in coded.encode().settings


LIMITS = {2: 1.20, 4: 2.20, 8: 3.20, 10: 3.60}


@pytest.fixture(scope="module")
def gaussian():
    return torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("alphabet", LIMITS)
def test_true_bits_of_a_large_gaussian_layer_with_one_percent_tail(gaussian, alphabet):
    tail = gaussian.abs() > 2.5758293  # the two-sided 1 % quantile
    normal = torch.distributions.Normal(0.0, 1.0)
    cuts = normal.icdf(torch.linspace(0.005, 0.995, alphabet + 1)[1:-1])
    codes = torch.bucketize(gaussian, cuts, out_int32=True).to(torch.uint8).masked_fill(tail, 0)
    positions = tail.view(-1).nonzero()[:, 0]
    weight = LevelsWeight(
        codes=codes,
        levels=torch.linspace(0.1, 2.4, alphabet // 2).half().view(1, 1, -1),
        scale=torch.tensor(1.0),
        alphabet=alphabet,
        symmetric=True,
        group_size=4096,
        tail_positions=positions,
        tail_codes=(gaussian.view(-1)[positions] > 0).to(torch.uint8) * 3,
        tail_levels=torch.tensor([-1.1, -0.9, 0.9, 1.1]).half(),
        tail_scale=torch.full((4096,), 2.8).half(),
    )
    packed = weight.encode()
    assert 0.0095 < len(positions) / gaussian.numel() < 0.0105
    assert packed.bits_per_weight() <= LIMITS[alphabet]
    assert packed.nbytes <= nbytes_bound(weight, len(positions)) <= 1.01 * packed.nbytes
    assert LevelsWeight.decode(packed) == weight
