"""`planes` against an encoder that writes strings of bits, a dequantizer that is a numpy loop, and the
definition of ggml's Q1_0.
"""

import dataclasses
import itertools
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats import planes
from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.planes import PlanesWeight, planes_nbytes

quick = settings(deadline=None, max_examples=80)


def half(*numbers):
    return torch.tensor(numbers, dtype=torch.float16)


def octets(*numbers):
    return torch.tensor(numbers, dtype=torch.uint8)


def make(
    rows,
    columns,
    group_size,
    *,
    parts=1,
    salient_parts=0,
    salient=(),
    bits=16,
    means=False,
    column_scales=False,
    tail=(),
    exponent=0,
    seed=0,
):
    """A weight with everything drawn at random; `salient` are columns, `tail` positions."""
    random = np.random.default_rng(seed)
    mask = torch.zeros(columns, dtype=torch.bool)
    mask[list(salient)] = True
    count, groups = parts + 2 * salient_parts, -(-columns // group_size)
    used = torch.cat([(~mask).expand(parts, -1), mask.expand(2 * salient_parts, -1)])

    def plane():
        return torch.from_numpy(random.integers(0, 2, (rows, columns)).astype(bool))

    def normal(*shape):
        return torch.from_numpy(random.normal(size=shape)).float()

    positions = torch.tensor(sorted(tail), dtype=torch.int64)
    signs = plane()
    signs.view(-1)[positions] = False
    return PlanesWeight(
        signs=signs,
        parts=parts,
        salient_parts=salient_parts,
        partition=plane() & torch.where(mask, salient_parts == 2, parts == 2),
        salient=mask,
        second_signs=plane() & mask,
        scales=Numbers.of(normal(rows, groups, count), bits, signed=True),
        means=Numbers.of(normal(rows, groups, parts + salient_parts), bits, signed=True) if means else None,
        column_scales=(
            torch.where(used, normal(count, columns), 0.0).half()
            if column_scales
            else torch.zeros(0, 0).half()
        ),
        tail_positions=positions,
        tail_codes=torch.from_numpy(random.integers(0, 256, len(positions)).astype(np.uint8)),
        tail_scale=normal(rows if len(positions) else 0).half(),
        tail_zero=(100 * normal(rows if len(positions) else 0)).half(),
        group_size=group_size,
        exponent=exponent,
    )


@st.composite
def weights(draw):
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 30))
    shared = {
        "group_size": draw(st.integers(1, columns)),
        "bits": draw(st.sampled_from((8, 16, 32))),
        "means": draw(st.booleans()),
        "column_scales": draw(st.booleans()),
        "exponent": draw(st.sampled_from((0, 0, 3, -126, 100))),
        "seed": draw(st.integers(0, 2**32)),
    }
    if draw(st.booleans()):
        return make(rows, columns, tail=draw(st.sets(st.integers(0, rows * columns - 1))), **shared)
    salient = draw(st.sets(st.integers(0, columns - 1)))
    salient_parts = draw(st.integers(1, 2)) if salient else 0
    return make(
        rows, columns, parts=draw(st.integers(1, 2)), salient_parts=salient_parts, salient=salient, **shared
    )


@st.composite
def plain_weights(draw):
    group_size = 8 * draw(st.integers(1, 4))
    return make(
        draw(st.integers(1, 6)),
        group_size * draw(st.integers(1, 4)),
        group_size,
        seed=draw(st.integers(0, 2**32)),
    )


def number_oracle(numbers, i, g, k):
    value = np.float32(numbers.stored[i, g, k].item())
    return value * np.float32(numbers.unit[i, k].item()) if numbers.in_eight_bits else value


def dequantize_oracle(weight):
    rows, columns = weight.shape
    power, tail = (
        np.float32(2.0**weight.exponent),
        dict(zip(weight.tail_positions.tolist(), weight.tail_codes.tolist(), strict=True)),
    )
    expanded = np.zeros((rows, columns), np.float32)

    def term(i, j, index, positive):
        scale = number_oracle(weight.scales, i, j // weight.group_size, index) * power
        if weight.column_scales.numel():
            scale = scale * np.float32(weight.column_scales[index, j].item())
        return scale * np.float32(1 if positive else -1)

    for i, j in itertools.product(range(rows), range(columns)):
        if i * columns + j in tail:
            distance = np.float32(tail[i * columns + j]) - np.float32(weight.tail_zero[i].item())
            expanded[i, j] = np.float32(weight.tail_scale[i].item()) * power * distance
            continue
        part, strong = int(weight.partition[i, j]), bool(weight.salient[j])
        first = weight.parts + 2 * part if strong else part
        summands = [term(i, j, first, weight.signs[i, j])]
        if weight.means is not None:
            summands.insert(
                0,
                number_oracle(
                    weight.means, i, j // weight.group_size, weight.parts + part if strong else part
                )
                * power,
            )
        if strong:
            summands.append(term(i, j, first + 1, weight.second_signs[i, j]))
        value = summands[0]
        for summand in summands[1:]:
            value = value + summand
        expanded[i, j] = value
    return expanded


def stream(text):
    """A string of bits, first bit first, to bytes."""
    return [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]


def row_streams(plane, columns):
    return [stream("".join(str(int(row[j])) for j in columns)) for row in plane.tolist()]


def planes_oracle(weight):
    """The planes of the file by docs/format.md, bit by bit."""
    signs = weight.signs.clone()
    for position, code in zip(weight.tail_positions.tolist(), weight.tail_codes.tolist(), strict=True):
        signs.view(-1)[position] = code % 2 == 1
    columns = range(weight.shape[1])
    salient = [j for j in columns if weight.salient[j]]
    parted = [j for j in columns if (weight.salient_parts if j in salient else weight.parts) == 2]
    written = {"signs": row_streams(signs, columns)}
    if parted:
        written["partition"] = row_streams(weight.partition, parted)
    if salient:
        written["salient"] = stream("".join(str(int(j in salient)) for j in columns))
        written["second_signs"] = row_streams(weight.second_signs, salient)
    if weight.tail_codes.numel():
        written["tail_bits"] = stream(
            "".join(format(code // 2, "07b")[::-1] for code in weight.tail_codes.tolist())
        )
    return written


@quick
@given(st.one_of(weights(), plain_weights()))
def test_decode_is_the_inverse_of_encode(weight):
    packed = weight.encode()
    assert PlanesWeight.decode(packed) == weight
    assert packed.shape == weight.shape == PlanesWeight.decode(packed).shape


@quick
@given(weights())
def test_planes_are_those_of_the_specification(weight):
    packed = weight.encode()
    names = ("signs", "partition", "salient", "second_signs", "tail_bits")
    expected = planes_oracle(weight)
    if "blocks" in packed.tensors:
        return
    assert {name: packed.tensors[name].tolist() for name in names if name in packed.tensors} == expected
    if weight.column_scales.numel():
        kinds = [~weight.salient] * weight.parts + [weight.salient] * (2 * weight.salient_parts)
        entries = [
            entry
            for row, kind in zip(weight.column_scales, kinds, strict=True)
            for entry in row[kind].tolist()
        ]
        assert packed.tensors["column_scales"].tolist() == entries


@quick
@given(st.one_of(weights(), plain_weights()))
def test_dequantize_equals_the_loop(weight):
    expanded = weight.dequantize()
    assert expanded.dtype == torch.float32
    np.testing.assert_array_equal(expanded.numpy().view(np.int32), dequantize_oracle(weight).view(np.int32))


def nbytes_of(weight, tail):
    return planes_nbytes(
        weight.shape,
        group_size=weight.group_size,
        parts=weight.parts,
        salient_parts=weight.salient_parts,
        salient_columns=int(weight.salient.sum()),
        means=weight.means is not None,
        column_scales=weight.column_scales.numel() > 0,
        scale_bits={torch.float32: 32, torch.float16: 16}.get(weight.scales.stored.dtype, 8),
        tail=tail,
    )


@quick
@given(st.one_of(weights(), plain_weights()))
def test_bytes_are_counted_exactly_but_for_positions(weight):
    tail, nbytes = weight.tail_codes.numel(), weight.encode().nbytes
    assert nbytes <= nbytes_of(weight, tail)
    assert tail or nbytes == nbytes_of(weight, 0)


@quick
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32))
def test_groups_of_128_are_the_blocks_of_ggml(rows, groups, seed):
    """A block of Q1_0: float16 d, then 16 bytes of signs; element e is +d where bit e % 8 of byte e / 8 is
    set, else -d.
    """
    weight = make(rows, 128 * groups, 128, seed=seed)
    raw = weight.encode().tensors["blocks"].numpy().tobytes()
    assert len(raw) == 18 * rows * groups
    values = []
    for start in range(0, len(raw), 18):
        (d,) = struct.unpack_from("<e", raw, start)
        quants = raw[start + 2 : start + 18]
        values += [d if quants[e // 8] >> e % 8 & 1 else -d for e in range(128)]
    assert weight.dequantize().view(-1).tolist() == values


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 32},
        {"bits": 8},
        {"means": True},
        {"column_scales": True},
        {"exponent": 1},
        {"tail": (3,)},
        {"parts": 2},
        {"salient": (3,), "salient_parts": 1},
        {"group_size": 12},
        {"columns": 20},
    ],
    ids=str,
)
def test_only_plain_planes_are_blocks(changes):
    assert set(make(2, 24, 8).encode().tensors) == {"blocks"}
    weight = make(**{"rows": 2, "columns": 24, "group_size": 8, **changes})
    assert "blocks" not in weight.encode().tensors
    assert PlanesWeight.decode(weight.encode()) == weight


RICH = {"parts": 2, "salient_parts": 2, "salient": (1, 4, 10), "means": True, "column_scales": True}


@pytest.mark.parametrize("fields", [RICH, {"tail": (0, 7, 98)}], ids=["rich", "tail"])
def test_blocks_of_rows_and_strides_do_not_show(fields, monkeypatch):
    weight = make(9, 11, 4, **fields)
    whole = weight.dequantize()
    strided = {
        name: getattr(weight, name).T.contiguous().T for name in ("signs", "partition", "second_signs")
    }
    again = dataclasses.replace(weight, **strided)
    assert not again.signs.is_contiguous()
    assert PlanesWeight.decode(again.encode()) == weight
    monkeypatch.setattr(planes, "_BLOCK", 2 * 11)
    assert torch.equal(weight.dequantize(), whole)
    assert torch.equal(again.dequantize(), whole)


def test_dequantize_changes_nothing_in_groups_of_one():
    weight = make(3, 5, 1, parts=2, means=True)
    first = weight.dequantize()
    assert torch.equal(weight.dequantize(), first)


def test_equality_is_of_bits():
    weight = make(3, 5, 2, tail=(2, 9))
    zeros = dataclasses.replace(weight, tail_zero=torch.zeros_like(weight.tail_zero))
    assert weight == dataclasses.replace(weight, signs=weight.signs.clone())
    assert zeros != dataclasses.replace(zeros, tail_zero=-zeros.tail_zero)
    assert weight != dataclasses.replace(weight, tail_codes=weight.tail_codes ^ 1)
    assert make(3, 5, 2, means=True) != dataclasses.replace(make(3, 5, 2, means=True), means=None)
    assert weight != dataclasses.replace(weight, exponent=1)
    assert weight != "a weight"


@pytest.mark.parametrize(
    ("share", "most"), [(0.05, 1.125 + 0.35 + 0.30 + 0.01), (0.1, 1.125 + 0.70 + 0.48 + 0.01)]
)
def test_true_bits_of_a_layer_with_a_random_tail(share, most):
    rows, columns = 512, 4096
    places = torch.rand(rows * columns, generator=torch.Generator().manual_seed(0)).argsort()[
        : int(share * rows * columns)
    ]
    weight = make(rows, columns, 128, tail=tuple(places.tolist()))
    packed = weight.encode()
    assert packed.bits_per_weight() <= most
    assert packed.nbytes <= nbytes_of(weight, len(places)) <= 1.02 * packed.nbytes


def numbers(*shape, dtype=torch.float16, fill=1.0):
    unit = torch.ones(shape[0], shape[2]).half() if dtype in (torch.uint8, torch.int8) else half()
    return Numbers(torch.full(shape, fill, dtype=dtype), unit)


NOT_FINITE = float("inf")
FIELDS = {
    "signs of another dtype": ({}, {"signs": torch.zeros(3, 5, dtype=torch.uint8)}, "'signs' is uint8"),
    "signs of nothing": ({}, {"signs": torch.zeros(0, 5, dtype=torch.bool)}, "'signs' is"),
    "signs of one dimension": ({}, {"signs": torch.zeros(15, dtype=torch.bool)}, "'signs' is"),
    "partition of another shape": ({}, {"partition": torch.zeros(5, 3, dtype=torch.bool)}, "'partition' is"),
    "a partition of one part": ({}, {"partition": torch.ones(3, 5, dtype=torch.bool)}, "'partition' must be"),
    "a partition of salient columns": (
        {"strong": True},
        {"partition": torch.ones(3, 5, dtype=torch.bool)},
        "'partition' must be",
    ),
    "a mask for each row": ({}, {"salient": torch.zeros(3, 5, dtype=torch.bool)}, "'salient' is"),
    "second signs beside": (
        {"strong": True},
        {"second_signs": torch.ones(3, 5, dtype=torch.bool)},
        "'second_signs' must be",
    ),
    "second signs of nothing salient": (
        {},
        {"second_signs": torch.ones(3, 5, dtype=torch.bool)},
        "'second_signs' must be",
    ),
    "three parts": ({}, {"parts": 3}, "'parts' is 3"),
    "parts as a float": ({}, {"parts": 1.0}, "'parts' is 1.0"),
    "salient parts without columns": ({}, {"salient_parts": 1}, "'salient_parts' is 1 with 0"),
    "salient columns without parts": ({"strong": True}, {"salient_parts": 0}, "'salient_parts' is 0 with 2"),
    "group of nothing": ({}, {"group_size": 0}, "'group_size' is 0"),
    "group wider than the row": ({}, {"group_size": 6}, "'group_size' is 6"),
    "exponent too large": ({}, {"exponent": 127}, "'exponent' is 127"),
    "exponent too small": ({}, {"exponent": -127}, "'exponent' is -127"),
    "too few scales": ({}, {"scales": numbers(3, 1, 1)}, "'scales' is"),
    "scales of two rows": ({}, {"scales": numbers(2, 2, 1)}, "'scales' is"),
    "scales that overflow": (
        {},
        {"scales": numbers(3, 2, 1, dtype=torch.float32, fill=2e38), "exponent": 1},
        "'scales' times",
    ),
    "means of another kind": ({"strong": True}, {"means": numbers(3, 2, 1)}, "'means' is"),
    "sums that overflow": (
        {"strong": True},
        {"scales": numbers(3, 2, 4, dtype=torch.float32, fill=2e38)},
        "overflow float32",
    ),
    "a mean that overflows": (
        {},
        {"means": numbers(3, 2, 1, dtype=torch.float32, fill=2e38), "exponent": 1},
        "overflow float32",
    ),
    "column scales of another shape": ({}, {"column_scales": torch.ones(2, 5).half()}, "'column_scales' is"),
    "empty column scales of one dimension": ({}, {"column_scales": half()}, "'column_scales' is"),
    "a column scale of the other kind": (
        {"strong": True},
        {"column_scales": torch.ones(4, 5).half()},
        "'column_scales' must be 0",
    ),
    "an infinite column scale": (
        {},
        {"column_scales": torch.full((1, 5), NOT_FINITE).half()},
        "'column_scales' holds",
    ),
    "column scales that overflow": (
        {},
        {
            "column_scales": torch.full((1, 5), 1e4).half(),
            "scales": numbers(3, 2, 1, dtype=torch.float32, fill=1e36),
        },
        "overflow float32",
    ),
    "a sign under the tail": (
        {"tail": True},
        {"signs": torch.ones(3, 5, dtype=torch.bool)},
        "'signs' must be false",
    ),
    "positions of another dtype": (
        {"tail": True},
        {"tail_positions": torch.tensor([2, 9]).int()},
        "'tail_positions' is int32",
    ),
    "positions below zero": (
        {"tail": True},
        {"tail_positions": torch.tensor([-1, 9])},
        "'tail_positions' must lie",
    ),
    "positions beyond": (
        {"tail": True},
        {"tail_positions": torch.tensor([2, 15])},
        "'tail_positions' must lie",
    ),
    "positions twice": (
        {"tail": True},
        {"tail_positions": torch.tensor([2, 2])},
        "'tail_positions' must be ascending",
    ),
    "too few tail codes": ({"tail": True}, {"tail_codes": octets(1)}, "'tail_codes' is"),
    "tail scale of two rows": ({"tail": True}, {"tail_scale": half(1, 1)}, "'tail_scale' is"),
    "an infinite tail scale": ({"tail": True}, {"tail_scale": half(1, NOT_FINITE, 1)}, "'tail_scale' holds"),
    "a tail zero that is no number": (
        {"tail": True},
        {"tail_zero": half(1, float("nan"), 1)},
        "'tail_zero' holds",
    ),
    "a tail that overflows": ({"tail": True}, {"exponent": 126}, "'tail_scale' times"),
    "tail scale without a tail": ({}, {"tail_scale": half(1, 1, 1)}, "'tail_scale' is"),
    "tail zero without a tail": ({}, {"tail_zero": half(1, 1, 1)}, "'tail_zero' is"),
}


def subject(strong=False, tail=False):
    """3 x 5 in groups of 3: bare, with two parts and two salient columns, or with a tail of two."""
    if strong:
        return make(3, 5, 3, parts=2, salient_parts=1, salient=(1, 4))
    weight = make(3, 5, 3, tail=(2, 9) if tail else ())
    return dataclasses.replace(weight, tail_scale=half(300, 300, 300)) if tail else weight


@pytest.mark.parametrize(("of", "changes", "message"), FIELDS.values(), ids=FIELDS)
def test_a_wrong_field_is_refused_by_name(of, changes, message):
    with pytest.raises(ValueError, match=f"^planes: .*{message}"):
        dataclasses.replace(subject(**of), **changes)


@pytest.mark.parametrize("fields", [{"parts": 2}, {"salient_parts": 1, "salient": (3,)}], ids=str)
def test_a_tail_needs_one_part_and_no_salient_columns(fields):
    with pytest.raises(ValueError, match="'tail' is only for"):
        make(3, 5, 3, tail=(2,), **fields)


SETTINGS = {
    "three parts": ({}, {"parts": 3}, "'parts' is 3"),
    "parts as a boolean": ({}, {"parts": True}, "'parts' is True"),
    "salient parts alone": ({}, {"salient_parts": 1}, "'salient_parts' is 1"),
    "more salient columns than columns": ({"strong": True}, {"salient_columns": 6}, "'salient_columns' is 6"),
    "fewer salient columns": ({"strong": True}, {"salient_columns": 1}, "'salient' names 2 columns"),
    "group of nothing": ({}, {"group_size": 0}, "'group_size' is 0"),
    "another group size": ({}, {"group_size": 2}, "'scales' is"),
    "a group size of blocks": ({}, {"group_size": 8}, "'group_size' is 8"),
    "an exponent as text": ({}, {"exponent": "1"}, "'exponent' is '1'"),
    "scales of a strange dtype": ({}, {"scales": "bfloat16"}, "'scales' is 'bfloat16'"),
    "no scales": ({}, {"scales": "none"}, "'scales' is 'none'"),
    "eight bits without a unit": ({}, {"scales": "uint8"}, "'scale_unit' is missing"),
    "means that are not there": ({}, {"means": "float16"}, "'means' is missing"),
    "a means setting as None": ({}, {"means": None}, "'means' is None"),
    "column scales as a number": ({}, {"column_scales": 0}, "'column_scales' is 0"),
    "a tail that is not there": ({}, {"tail": 1}, "'tail_low' is missing"),
    "more tail than weights": ({"tail": True}, {"tail": 16}, "'tail' is 16"),
    "another tail": ({"tail": True}, {"tail": 1}, "'tail_bits' is|'tail_high': 2 ones"),
    "a tail with two parts": ({"tail": True}, {"parts": 2}, "'tail' is only"),
    "a rice parameter without a tail": ({}, {"tail_rice": 2}, "'tail_rice' is 2"),
    "a rice parameter too large": ({"tail": True}, {"tail_rice": 33}, "'tail_rice' is 33"),
    "a stranger": ({}, {"rank": 2}, "the settings are"),
}


@pytest.mark.parametrize(("of", "changes", "message"), SETTINGS.values(), ids=SETTINGS)
def test_wrong_settings_are_refused(of, changes, message):
    packed = subject(**of).encode()
    with pytest.raises(ValueError, match=f"^planes: .*({message})"):
        PlanesWeight.decode(dataclasses.replace(packed, settings={**packed.settings, **changes}))


TENSORS = {
    "a bit after the last sign": ({}, {"signs": octets(0x20, 0, 0).view(3, 1)}, "'signs': a bit after"),
    "signs of two rows": ({}, {"signs": octets(0, 0).view(2, 1)}, "'signs' is"),
    "a bit after the partition": (
        {"strong": True},
        {"partition": octets(8, 0, 0).view(3, 1)},
        "'partition': a bit after",
    ),
    "another number of salient columns": (
        {"strong": True},
        {"salient": octets(0x07)},
        "'salient' names 3 columns",
    ),
    "a bit after the last column": ({"strong": True}, {"salient": octets(0x22)}, "'salient': a bit after"),
    "a bit after the second signs": (
        {"strong": True},
        {"second_signs": octets(4, 0, 0).view(3, 1)},
        "'second_signs': a bit after",
    ),
    "a scale that is no number": (
        {},
        {"scales": torch.full((3, 2, 1), float("nan")).half()},
        "'scales': a number",
    ),
    "scales as float32": ({}, {"scales": torch.ones(3, 2, 1)}, "'scales' is float32"),
    "a bit after the tail's": ({"tail": True}, {"tail_bits": octets(0, 0x40)}, "'tail_bits': a bit after"),
    "positions beyond": ({"tail": True}, {"tail_high": octets(0x01, 0x00, 0x80)}, "lead to position"),
    "too many ones": ({"tail": True}, {"tail_high": octets(0xFF)}, "'tail_high': 8 ones"),
    "an infinite tail scale": ({"tail": True}, {"tail_scale": half(1, 1, NOT_FINITE)}, "'tail_scale' holds"),
    "a stranger": ({}, {"codes": octets(0)}, "'codes' does not belong"),
}


@pytest.mark.parametrize(("of", "changes", "message"), TENSORS.values(), ids=TENSORS)
def test_wrong_tensors_are_refused_by_name(of, changes, message):
    packed = subject(**of).encode()
    with pytest.raises(ValueError, match=f"^planes: .*{message}"):
        PlanesWeight.decode(dataclasses.replace(packed, tensors={**packed.tensors, **changes}))


def test_broken_blocks_are_refused_by_name():
    packed = make(2, 16, 8).encode()
    broken = packed.tensors["blocks"].clone()
    broken[1, 1, :2] = octets(0x00, 0x7C)  # an infinite scale
    with pytest.raises(ValueError, match=r"^planes: 'blocks': a number is not finite"):
        PlanesWeight.decode(dataclasses.replace(packed, tensors={"blocks": broken}))
    with pytest.raises(ValueError, match="'blocks' is"):
        PlanesWeight.decode(dataclasses.replace(packed, tensors={"blocks": broken[:1]}))
    with pytest.raises(ValueError, match="'signs' is missing"):
        PlanesWeight.decode(dataclasses.replace(packed, settings={**packed.settings, "exponent": 1}))


def test_another_format_or_shape_is_refused():
    packed = subject().encode()
    with pytest.raises(ValueError, match="the format is 'levels'"):
        PlanesWeight.decode(dataclasses.replace(packed, format="levels"))
    for shape in ((0, 5), (3, 0), (15,)):
        with pytest.raises(ValueError, match="the shape is"):
            PlanesWeight.decode(dataclasses.replace(packed, shape=shape))
    with pytest.raises(ValueError, match="'signs' is"):
        PlanesWeight.decode(PackedTensor("planes", (4, 5), packed.tensors, packed.settings))
