"""`trellis` against a loop over its definition, its exact size, and everything that it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats import PackedTensor, TrellisWeight
from bivlm.formats.trellis import column_bits, pack_symbols, runs, strip_bytes, strips, trellis_nbytes
from trellis_oracle import expand

STANDARD = torch.zeros(0, 0, dtype=torch.int8)


def symbols_of(rows, columns, run_bits, seed=0):
    """Random symbols (in, held)."""
    random = torch.Generator().manual_seed(seed)
    symbols = torch.randint(0, 256, (columns, -(-rows // 16) * 16), generator=random, dtype=torch.uint8)
    return symbols & ((1 << run_bits.long().repeat_interleave(16)[:columns]) - 1).to(torch.uint8)[:, None]


def weight(
    rows=20, columns=40, bits=(2, 1, 3), *, window=8, rotated=True, fitted=False, seed=0, exponent=0, blocks=1
):
    random = torch.Generator().manual_seed(seed)
    run_bits = torch.tensor([bits[run % len(bits)] for run in range(-(-columns // 16))], dtype=torch.uint8)
    return TrellisWeight(
        codes=pack_symbols(symbols_of(rows, columns, run_bits, seed), run_bits),
        columns=columns,
        bits=run_bits,
        row_scale=torch.randn(rows, generator=random).half(),
        table=(
            torch.randint(-128, 128, (4, 1 << window), generator=random, dtype=torch.int8)
            if fitted
            else STANDARD
        ),
        window=window,
        rotated=rotated,
        seed=seed,
        exponent=exponent,
        blocks=blocks,
    )


@st.composite
def weights(draw):
    blocks = draw(st.sampled_from([1, 1, 2, 3]))
    return weight(
        draw(st.integers(1, 150)),
        draw(st.integers(1, 60)) if blocks == 1 else 16 * blocks * draw(st.integers(1, 3)),
        draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)),
        window=draw(st.sampled_from([8, 12, 16])),
        rotated=blocks > 1 or draw(st.booleans()),
        fitted=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
        exponent=draw(st.integers(-100, 100)),
        blocks=blocks,
    )


@settings(deadline=None, max_examples=60)
@given(weights())
def test_any_weight_follows_the_definition_comes_back_and_has_the_size_that_is_promised(w):
    values, expanded = expand(w)
    assert np.array_equal(w.values().numpy(), values)
    length = np.sqrt((expanded**2).sum(1, keepdims=True))
    assert np.all(np.abs(w.dequantize().double().numpy() - expanded) <= 1e-6 * length)
    packed = w.encode()
    assert TrellisWeight.decode(packed) == w
    assert packed.nbytes == trellis_nbytes(w.shape, w.bits, w.window if w.table.numel() else 0)
    assert ("table" in packed.tensors) == packed.settings["fitted"] == (w.table.numel() > 0)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 48, 63, 64, 65, 130])
@pytest.mark.parametrize(
    ("columns", "bits"), [(1, (1,)), (16, (2,)), (18, (2, 1)), (33, (0, 4)), (50, (3, 0, 0, 2)), (20, (0,))]
)
def test_ragged_shapes_and_runs_without_bits(rows, columns, bits):
    w = weight(rows, columns, bits, rotated=False)
    values, expanded = expand(w)
    assert np.array_equal(w.values().numpy(), values)
    assert w.dequantize().tolist() == expanded.tolist()
    for run, k in zip(runs(columns), w.bits.tolist(), strict=True):
        assert k > 0 or not bool(w.values()[:, run].any())
    assert trellis_nbytes(w.shape, w.bits) == w.encode().nbytes


def test_values_are_exact_in_the_rotated_basis():
    """A float16 times an int8 times a power of two: nothing is rounded before the rotation."""
    w = weight(70, 40, exponent=-3)
    expected = w.values().double() * w.row_scale.double()[:, None] * 2.0**-8
    assert torch.equal(w.rotated_weight().double(), expected)


def test_rows_follow_each_other_in_a_column_and_columns_in_a_stream():
    """A window of 8 with K = 2 is the weight's own two bits on top of those of three weights before it, in
    the column before if need be.
    """
    run_bits = torch.tensor([2], dtype=torch.uint8)
    symbols = symbols_of(16, 3, run_bits)
    table = torch.arange(-128, 128).view(1, -1).expand(4, -1).to(torch.int8)
    codes = pack_symbols(symbols, run_bits)
    values = (
        TrellisWeight(codes, 3, run_bits, torch.ones(16).half(), table, 8, False, 0, 0).values().int() + 128
    )
    stream = [0, 0, 0, *symbols.flatten().tolist()]
    expected = [stream[i] + 4 * stream[i + 1] + 16 * stream[i + 2] + 64 * stream[i + 3] for i in range(48)]
    assert values.T.flatten().tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_one_changed_symbol_changes_no_more_than_its_windows(k):
    run_bits = torch.tensor([k, k], dtype=torch.uint8)
    symbols = symbols_of(64, 32, run_bits)
    other = symbols.clone()
    other[5, 60] ^= 1
    one, two = (
        dataclasses.replace(weight(64, 32, (k,), fitted=True), codes=pack_symbols(each, run_bits))
        .values()
        .T.flatten()
        for each in (symbols, other)
    )
    changed = (one != two).nonzero()[:, 0] - (5 * 64 + 60)
    assert int(changed.min()) >= 0
    assert int(changed.max()) < -(-8 // k)


def test_true_bits_of_layers():
    """Row scales are 16 bits of a row, the bits of the runs half a bit of a column, the zeros before a stream
    two bytes per 64 rows.
    """
    for shape, most in {
        (4096, 4096): 0.005,
        (11008, 4096): 0.005,
        (1536, 576): 0.032,
        (576, 576): 0.032,
        (100, 576): 0.61,
    }.items():
        for k in (1, 2, 3, 4):
            run_bits = torch.full((shape[1] // 16,), k, dtype=torch.uint8)
            over = 8 * trellis_nbytes(shape, run_bits) / (shape[0] * shape[1]) - k
            assert 0 < over <= most
    # what was asked of the format: 0.05 on 4096 columns, 0.10 on 576
    run_bits = torch.full((36,), 2, dtype=torch.uint8)
    assert trellis_nbytes((64, 576), run_bits) == 64 * 576 * 2 // 8 + 2 + 36 + 128
    assert trellis_nbytes((64, 576), run_bits, 8) == 64 * 576 * 2 // 8 + 2 + 36 + 128 + 4 * 256


def test_strips_runs_and_bits():
    assert strips(1) == [16]
    assert strips(64) == [64]
    assert strips(130) == [64, 64, 16]
    assert strips(97) == [64, 48]
    assert [(run.start, run.stop) for run in runs(33)] == [(0, 16), (16, 32), (32, 33)]
    assert column_bits(torch.tensor([3, 0, 1], dtype=torch.uint8), 33).tolist() == [3] * 16 + [0] * 16 + [1]
    assert strip_bytes(48, column_bits(torch.tensor([3, 0, 1], dtype=torch.uint8), 33)) == 2 + 49 * 6


def test_a_weight_of_another_exponent_is_that_many_times_as_large():
    assert torch.equal(weight(exponent=5).dequantize(), 32 * weight().dequantize())


def test_bits_of_rows_that_are_not_there_may_be_anything():
    """They are part of the windows of the rows that are: nothing to refuse, and they come back."""
    w = weight(3, 2, (4,), rotated=False)
    codes = w.codes.clone()
    codes[-1] ^= 0xFF
    other = dataclasses.replace(w, codes=codes)
    assert torch.equal(other.values(), w.values())
    assert other != w
    assert TrellisWeight.decode(other.encode()) == other


def test_minus_zero_is_not_zero():
    w = dataclasses.replace(weight(), row_scale=torch.zeros(20).half())
    assert w != dataclasses.replace(w, row_scale=-w.row_scale)


def flipped(codes, byte):
    changed = codes.clone()
    changed[byte] ^= 0x10
    return changed


GOOD = weight(70, 40)
REFUSED = {
    "a stream that is too short": ({"codes": GOOD.codes[:-1]}, r"'codes' has \d+ bytes; these bits take \d+"),
    "a stream that is too long": ({"codes": torch.cat([GOOD.codes, GOOD.codes[:1]])}, "'codes' has "),
    "codes in two dimensions": ({"codes": GOOD.codes[None]}, "'codes' is "),
    "codes that are signed": ({"codes": GOOD.codes.view(torch.int8)}, "'codes' is int8"),
    "bits before the first stream": (
        {"codes": flipped(GOOD.codes, 1)},
        "a bit before the stream of a strip is not zero in 'codes'",
    ),
    "bits before the second stream": (
        {"codes": flipped(GOOD.codes, strip_bytes(64, column_bits(GOOD.bits, 40)))},
        "a bit before the stream",
    ),
    "five bits": ({"bits": torch.tensor([2, 5, 3], dtype=torch.uint8)}, "'bits' holds 5; at most 4"),
    "other bits": ({"bits": torch.tensor([2, 2, 3], dtype=torch.uint8)}, "'codes' has "),
    "bits of other runs": ({"bits": torch.tensor([2, 1], dtype=torch.uint8)}, "'bits' is "),
    "bits in int64": ({"bits": GOOD.bits.long()}, "'bits' is int64"),
    "other columns": ({"columns": 50}, "'bits' is "),
    "no columns": ({"columns": 0}, "'columns' is 0"),
    "columns that are no integer": ({"columns": 40.0}, "'columns' is 40.0"),
    "no rows": ({"row_scale": torch.zeros(0).half()}, "'row_scale' is empty"),
    "other rows": ({"row_scale": torch.ones(20).half()}, "'codes' has "),
    "scales in float32": ({"row_scale": torch.ones(70)}, "'row_scale' is float32"),
    "scales in two dimensions": ({"row_scale": torch.ones(70, 1).half()}, "'row_scale' is "),
    "a scale that is infinite": (
        {"row_scale": torch.full((70,), torch.inf).half()},
        "'row_scale' is not finite",
    ),
    "a scale that is no number": (
        {"row_scale": torch.full((70,), torch.nan).half()},
        "'row_scale' is not finite",
    ),
    "numbers that overflow": (
        {"row_scale": torch.full((70,), -60000.0).half(), "exponent": 126},
        "'row_scale' .* overflows float32",
    ),
    "a table of another window": ({"table": torch.zeros(4, 4096, dtype=torch.int8)}, "'table' is "),
    "a table for three numbers of bits": ({"table": torch.zeros(3, 256, dtype=torch.int8)}, "'table' is "),
    "a table in float": ({"table": torch.zeros(4, 256)}, "'table' is float32"),
    "no table, in float": ({"table": torch.zeros(0, 0)}, "'table' is float32"),
    "a window of nine": ({"window": 9}, "'window' is 9; needs one of 8, 12, 16"),
    "a window that is no integer": ({"window": 8.0}, "'window' is 8.0"),
    "a rotation that is a number": ({"rotated": 1}, "'rotated' is 1; needs true or false"),
    "a negative seed": ({"seed": -1}, "'seed' is -1"),
    "a seed of 64 bits": ({"seed": 1 << 63}, "'seed' is 9223372036854775808"),
    "a seed that is a truth": ({"seed": True}, "'seed' is True"),
    "no blocks": ({"blocks": 0}, "'blocks' is 0"),
    "blocks that are no whole runs": ({"blocks": 2}, "'blocks' is 2; 40 columns have no 2 equal blocks"),
    "blocks that do not divide": ({"blocks": 3}, "'blocks' is 3; 40 columns have no 3 equal blocks"),
    "more blocks than columns": ({"blocks": 41}, "'blocks' is 41; needs 1 … 40"),
    "blocks without a rotation": ({"blocks": 2, "rotated": False}, "'blocks' is 2; needs 1 … 1"),
    "blocks that are no integer": ({"blocks": 1.0}, "'blocks' is 1.0"),
    "a negative first column": ({"first_column": -16}, "'first_column' is -16"),
    "a first column that is no integer": ({"first_column": 16.0}, "'first_column' is 16.0"),
    "a first column in the midst of a block": (
        {"first_column": 40},
        "'first_column' is 40; needs a multiple of 80",
    ),
    "a first column in the midst of a run": (
        {"first_column": 40, "rotated": False},
        "'first_column' is 40; needs a multiple of 16",
    ),
    "an exponent out of range": ({"exponent": -127}, "'exponent' is -127"),
    "an exponent that is no integer": ({"exponent": 1.0}, "'exponent' is 1.0"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_held_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"^trellis: {message}"):
        dataclasses.replace(GOOD, **changes)


WRONG_SETTINGS = [
    ("window", 9), ("window", "8"), ("window", True), ("window", 12), ("rotated", 0), ("rotated", "true"),
    ("seed", -1), ("seed", 1.0),
    ("seed", 1 << 63), ("exponent", 127), ("exponent", 0.5), ("fitted", 0), ("fitted", False), ("strange", 1),
    ("blocks", 1), ("blocks", True), ("blocks", 0), ("blocks", 3), ("blocks", "2"), ("blocks", None),
    ("first_column", 0), ("first_column", False), ("first_column", 20), ("first_column", 1 << 40),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS)
def test_settings_that_are_wrong_or_contradict_the_tensors_are_refused(name, value):
    packed = weight(fitted=True).encode()
    with pytest.raises(ValueError, match=r"^trellis: .*'"):
        TrellisWeight.decode(
            PackedTensor("trellis", packed.shape, packed.tensors, {**packed.settings, name: value})
        )


def test_a_table_that_is_promised_must_be_there_and_no_other():
    packed = weight().encode()
    with pytest.raises(ValueError, match=r"^trellis: 'table' is missing"):
        TrellisWeight.decode(dataclasses.replace(packed, settings={**packed.settings, "fitted": True}))
    with pytest.raises(ValueError, match=r"^trellis: 'table' does not belong"):
        TrellisWeight.decode(
            dataclasses.replace(
                packed, tensors={**packed.tensors, "table": torch.zeros(4, 256, dtype=torch.int8)}
            )
        )


@pytest.mark.parametrize("changed", ["codes", "bits"])
def test_streams_and_bits_of_a_file_are_checked(changed):
    packed = weight(70, 40).encode()
    tensors = {**packed.tensors, changed: flipped(packed.tensors[changed], 0)}
    with pytest.raises(ValueError, match=r"^trellis: (a bit before|'bits' holds 18)"):
        TrellisWeight.decode(dataclasses.replace(packed, tensors=tensors))


def test_another_format_and_a_shape_that_is_none_are_refused():
    packed = weight().encode()
    for wrong in ({"format": "uniform"}, {"shape": (20, 0)}, {"shape": (0, 40)}, {"shape": (800,)}):
        with pytest.raises(ValueError, match=r"^trellis: the "):
            TrellisWeight.decode(dataclasses.replace(packed, **wrong))
