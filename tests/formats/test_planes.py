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
from bivlm.formats.planes import PlanesWeight, planes_nbytes
from made_weights import made_planes as make

quick = settings(deadline=None, max_examples=80)


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
