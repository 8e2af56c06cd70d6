"""`levels` against an encoder that writes strings of bits, and a dequantizer that is a numpy loop."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats import levels
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding import bits
from bivlm.formats.levels import LevelsWeight, levels_nbytes

quick = settings(deadline=None, max_examples=80)


def ascending(random, shape, low, high):
    return torch.from_numpy(np.sort(random.uniform(low, high, shape), axis=-1)).half()


def make(rows, columns, *, alphabet, symmetric=False, group_size=None, per_row=False, tail=(), seed=0):
    """A weight with random codes and tables, and tail entries at the positions `tail`."""
    random = np.random.default_rng(seed)
    group_size = group_size or columns
    codes = torch.from_numpy(random.integers(0, alphabet, (rows, columns)).astype(np.uint8))
    positions = torch.tensor(sorted(tail), dtype=torch.int64)
    codes.view(-1)[positions] = 0
    table = (rows if per_row else 1, -(-columns // group_size), alphabet // 2 if symmetric else alphabet)
    return LevelsWeight(
        codes=codes,
        levels=ascending(random, table, 0 if symmetric else -3, 3),
        scale=torch.tensor(random.uniform(1e-4, 10), dtype=torch.float32),
        alphabet=alphabet,
        symmetric=symmetric,
        group_size=group_size,
        tail_positions=positions,
        tail_codes=torch.from_numpy(random.integers(0, 4, len(tail)).astype(np.uint8)),
        tail_levels=ascending(random, 4, -3, 3) if len(tail) else torch.zeros(4, dtype=torch.float16),
        tail_scale=(
            torch.from_numpy(random.uniform(0, 4, rows)).half()
            if len(tail)
            else torch.zeros(0, dtype=torch.float16)
        ),
    )


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
        seed=draw(st.integers(0, 2**32)),
    )


def stream(text):
    """A string of bits, first bit first, to bytes."""
    return [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]


def field(number, width):
    return format(number, f"0{width}b")[::-1] if width else ""


def streams_oracle(weight):
    """The uint8 tensors of the file by docs/format.md, bit by bit."""
    alphabet, n = weight.alphabet, weight.tail_codes.numel()
    codes, positions, tail_codes = (
        weight.codes.tolist(),
        weight.tail_positions.tolist(),
        weight.tail_codes.tolist(),
    )
    columns = len(codes[0])
    for position, code in zip(positions, tail_codes, strict=True):
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
    if n and alphabet < 4:
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
    for position, code in zip(weight.tail_positions.tolist(), weight.tail_codes.tolist(), strict=True):
        i, j = divmod(position, columns)
        expanded[i, j] = scale * np.float32(weight.tail_scale[i]) * np.float32(weight.tail_levels[code])
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
        weight.shape, weight.alphabet, weight.symmetric, weight.group_size, weight.levels.shape[0], tail
    )


@quick
@given(weights(), st.integers(0, 800))
def test_bytes_stay_within_the_bound(weight, more):
    n = weight.tail_codes.numel()
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


def half(*numbers):
    return torch.tensor(numbers, dtype=torch.float16)


FIELDS = {
    "codes of another dtype": ({"codes": torch.zeros(3, 5, dtype=torch.int64)}, "'codes' is int64"),
    "codes of one dimension": ({"codes": torch.zeros(15, dtype=torch.uint8)}, "'codes' is"),
    "codes of nothing": ({"codes": torch.zeros(0, 5, dtype=torch.uint8)}, "'codes' is"),
    "a code too large": ({"codes": torch.full((3, 5), 4, dtype=torch.uint8)}, "'codes' holds 4"),
    "a code under the tail": ({"codes": torch.ones(3, 5, dtype=torch.uint8)}, "'codes' must be 0"),
    "alphabet of one": ({"alphabet": 1}, "'alphabet' is 1"),
    "alphabet of 17": ({"alphabet": 17}, "'alphabet' is 17"),
    "alphabet as a float": ({"alphabet": 4.0}, "'alphabet' is 4.0"),
    "symmetric and odd": ({"alphabet": 5}, "even alphabet"),
    "symmetric as a number": ({"symmetric": 1}, "'symmetric' is 1"),
    "group of nothing": ({"group_size": 0}, "'group_size' is 0"),
    "group wider than the row": ({"group_size": 6}, "'group_size' is 6"),
    "levels of another dtype": ({"levels": torch.ones(1, 2, 2)}, "'levels' is float32"),
    "levels for two rows of three": ({"levels": torch.ones(2, 2, 2).half()}, "'levels' is"),
    "levels for too few groups": ({"levels": torch.ones(1, 1, 2).half()}, "'levels' is"),
    "too many levels": ({"levels": torch.ones(1, 2, 4).half()}, "'levels' is"),
    "levels that descend": ({"levels": half(2, 1, 1, 2).view(1, 2, 2)}, "'levels' must be ascending"),
    "levels that are no magnitudes": ({"levels": half(-1, 1, 1, 2).view(1, 2, 2)}, "'levels' of a symmetric"),
    "an infinite level": ({"levels": half(1, float("inf"), 1, 2).view(1, 2, 2)}, "'levels' holds NaN"),
    "a level that is no number": (
        {"levels": half(1, float("nan"), 1, 2).view(1, 2, 2)},
        "'levels' holds NaN",
    ),
    "scale of one dimension": ({"scale": torch.ones(1)}, "'scale' is"),
    "scale of another dtype": ({"scale": torch.tensor(1.0).half()}, "'scale' is float16"),
    "scale zero": ({"scale": torch.tensor(0.0)}, "'scale' is 0.0"),
    "scale infinite": ({"scale": torch.tensor(float("inf"))}, "'scale' is inf"),
    "scale no number": ({"scale": torch.tensor(float("nan"))}, "'scale' is nan"),
    "scale that overflows": (
        {"scale": torch.tensor(3e38), "levels": half(1, 2, 1, 2).view(1, 2, 2)},
        "overflows",
    ),
    "tail that overflows": (
        {"scale": torch.tensor(1e38), "levels": torch.ones(1, 2, 2).half(), "tail_scale": half(9, 9, 9)},
        "'tail_scale' and",
    ),
    "positions of another dtype": (
        {"tail_positions": torch.tensor([2, 9]).int()},
        "'tail_positions' is int32",
    ),
    "positions below zero": ({"tail_positions": torch.tensor([-1, 9])}, "'tail_positions' must lie"),
    "positions beyond": ({"tail_positions": torch.tensor([2, 15])}, "'tail_positions' must lie"),
    "positions unsorted": ({"tail_positions": torch.tensor([9, 2])}, "'tail_positions' must be ascending"),
    "positions twice": ({"tail_positions": torch.tensor([2, 2])}, "'tail_positions' must be ascending"),
    "more positions than codes": ({"tail_positions": torch.tensor([2, 3, 9])}, "'tail_codes' is"),
    "a tail code too large": (
        {"tail_codes": torch.tensor([0, 4], dtype=torch.uint8)},
        "'tail_codes' holds 4",
    ),
    "three tail levels": ({"tail_levels": half(0, 1, 2)}, "'tail_levels' is"),
    "tail levels that descend": ({"tail_levels": half(0, 2, 1, 3)}, "'tail_levels' must be"),
    "a tail level that is no number": ({"tail_levels": half(0, 1, 2, float("nan"))}, "'tail_levels' must be"),
    "tail scale of two rows": ({"tail_scale": half(1, 1)}, "'tail_scale' is"),
    "tail scale below zero": ({"tail_scale": half(1, -1, 1)}, "'tail_scale' must be"),
    "tail scale infinite": ({"tail_scale": half(1, float("inf"), 1)}, "'tail_scale' must be"),
}


@pytest.mark.parametrize(("changes", "message"), FIELDS.values(), ids=FIELDS)
def test_a_wrong_field_is_refused_by_name(changes, message):
    weight = make(3, 5, alphabet=4, symmetric=True, group_size=3, tail=(2, 9))
    with pytest.raises(ValueError, match=f"^levels: .*{message}"):
        dataclasses.replace(weight, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail_levels": half(0, 0, 0, 1)}, "'tail_levels' must be zeros"),
        ({"tail_scale": half(1, 1, 1)}, "'tail_scale' is"),
    ],
)
def test_without_a_tail_its_tables_are_empty(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(3, 5, alphabet=4), **changes)


def octets(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


SETTINGS = {
    "alphabet 17": ({"alphabet": 17}, "'alphabet' is 17"),
    "alphabet as text": ({"alphabet": "3"}, "'alphabet' is '3'"),
    "symmetric and odd": ({"symmetric": True}, "even alphabet"),
    "group of nothing": ({"group_size": 0}, "'group_size' is 0"),
    "tail below zero": ({"tail": -1}, "'tail' is -1"),
    "more tail than weights": ({"tail": 25}, "'tail' is 25"),
    "tail as a boolean": ({"tail": True}, "'tail' is True"),
    "rice above 32": ({"tail_rice": 33}, "'tail_rice' is 33"),
    "a rice parameter without a tail": ({"tail": 0}, "'tail_rice' is 2"),
    "another rice parameter": ({"tail_rice": 8}, "'tail_low' is"),
    "another tail": ({"tail": 2}, "'tail_high': 3 ones"),
    "a stranger": ({"bands": 2}, "the settings are"),
}

TENSORS = {
    "a word that no symbols make": (
        {"codes": octets(243, 1, 0, 9, 0, 0).view(3, 2)},
        "'codes': a word is 243",
    ),
    "a symbol after the last column": (
        {"codes": octets(0, 2 * 81, 0, 0, 0, 0).view(3, 2)},
        "'codes': a symbol after",
    ),
    "a code under the tail that is no tail code": (
        {"codes": octets(2 * 27, 0, 0, 0, 0, 0).view(3, 2)},
        "'codes' is 2 under a tail",
    ),
    "codes of one row": ({"codes": octets(0, 0).view(1, 2)}, "'codes' is"),
    "a bit after the last low": ({"tail_low": octets(0x47)}, "'tail_low': a bit after"),
    "too many ones": ({"tail_high": octets(0x69)}, "'tail_high': 4 ones"),
    "zeros at the end": ({"tail_high": octets(0x29, 0)}, "'tail_high': 2 bytes"),
    "positions beyond": ({"tail_high": octets(0x89)}, "'tail_high' and 'tail_low' lead to position"),
    "unary of two dimensions": ({"tail_high": octets(0x29).view(1, 1)}, "'tail_high' is"),
    "a bit after the last tail bit": ({"tail_bits": octets(0x0B)}, "'tail_bits': a bit after"),
    "levels as float32": ({"levels": torch.zeros(1, 1, 3)}, "'levels' is float32"),
    "levels of one dimension": ({"levels": half(0, 1, 2)}, "'levels' is"),
    "levels for four rows": ({"levels": torch.zeros(4, 1, 3).half()}, "'levels' is"),
    "a level that is no number": ({"levels": half(0, 1, float("nan")).view(1, 1, 3)}, "'levels' holds"),
    "scale without a dimension": ({"scale": torch.tensor(1.0)}, "'scale' is"),
    "scale zero": ({"scale": torch.zeros(1)}, "'scale' is 0.0"),
    "tail levels of two dimensions": ({"tail_levels": torch.zeros(2, 2).half()}, "'tail_levels' is"),
    "tail scale of one row": ({"tail_scale": half(1)}, "'tail_scale' is"),
    "a stranger": ({"zero_point": octets(0)}, "'zero_point' does not belong"),
}


@pytest.fixture
def packed():
    """3 x 8, three symbols, tail at 3, 13, 18: gaps 3, 9, 4; k = 2; low 3 1 0 = 0x07; high 0 2 1 = 0x29."""
    weight = make(3, 8, alphabet=3, tail=(3, 13, 18))
    encoded = dataclasses.replace(weight, tail_codes=octets(3, 1, 2)).encode()
    assert [encoded.tensors[name].tolist() for name in ("tail_low", "tail_high", "tail_bits")] == [
        [0x07],
        [0x29],
        [0x03],
    ]
    return encoded


@pytest.mark.parametrize(("changes", "message"), SETTINGS.values(), ids=SETTINGS)
def test_wrong_settings_are_refused(packed, changes, message):
    with pytest.raises(ValueError, match=f"^levels: .*{message}"):
        LevelsWeight.decode(dataclasses.replace(packed, settings={**packed.settings, **changes}))


@pytest.mark.parametrize(("changes", "message"), TENSORS.values(), ids=TENSORS)
def test_wrong_tensors_are_refused_by_name(packed, changes, message):
    with pytest.raises(ValueError, match=f"^levels: .*{message}"):
        LevelsWeight.decode(dataclasses.replace(packed, tensors={**packed.tensors, **changes}))


def test_another_format_or_shape_is_refused(packed):
    with pytest.raises(ValueError, match="the format is 'planes'"):
        LevelsWeight.decode(dataclasses.replace(packed, format="planes"))
    for shape in ((0, 8), (3, 0), (24,)):
        with pytest.raises(ValueError, match="the shape is"):
            LevelsWeight.decode(dataclasses.replace(packed, shape=shape))
    with pytest.raises(ValueError, match="'codes' is"):
        LevelsWeight.decode(dataclasses.replace(packed, shape=(3, 11)))


def test_a_tail_that_leads_far_beyond_does_not_overflow():
    """Quotients of a hostile file shifted by 32 bits would leave int64 if they were added up as tensors."""
    weight = make(1, 4, alphabet=4, tail=(1,)).encode()
    high = torch.zeros(1 << 10, dtype=torch.uint8)
    high[-1] = 1
    hostile = {**weight.tensors, "tail_low": octets(255, 255, 255, 255), "tail_high": high}
    with pytest.raises(ValueError, match=r"lead to position \d+ in a weight of 4"):
        LevelsWeight.decode(PackedTensor("levels", (1, 4), hostile, {**weight.settings, "tail_rice": 32}))
