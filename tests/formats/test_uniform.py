"""`uniform` against a loop over its definition, its exact size, and everything that it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats import PackedTensor, UniformWeight
from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.encoding.uniform_checks import ALPHABETS
from bivlm.formats.uniform import uniform_nbytes

KINDS = ["middle", "code", "free"]


def weight(
    rows=3,
    columns=10,
    group_size=4,
    *,
    alphabet=4,
    bits=16,
    zero="middle",
    column_scale=False,
    exponent=0,
    seed=0,
):
    random = torch.Generator().manual_seed(seed)
    groups = -(-columns // group_size)
    points = {
        "middle": torch.zeros(0).half(),
        "code": torch.randint(0, alphabet, (rows, groups), generator=random, dtype=torch.uint8),
        "free": (3 * torch.randn(rows, groups, generator=random)).half(),
    }
    return UniformWeight(
        codes=torch.randint(0, alphabet, (rows, columns), generator=random, dtype=torch.uint8),
        alphabet=alphabet,
        scales=Numbers.of(torch.rand(rows, groups, 1, generator=random), bits),
        zero_points=points[zero],
        column_scale=(
            (torch.rand(columns, generator=random) + 0.1).half() if column_scale else torch.zeros(0).half()
        ),
        group_size=group_size,
        exponent=exponent,
    )


@st.composite
def weights(draw):
    columns = draw(st.integers(1, 40))
    return weight(
        draw(st.integers(1, 5)),
        columns,
        draw(st.integers(1, columns)),
        alphabet=draw(st.sampled_from(ALPHABETS)),
        bits=draw(st.sampled_from([8, 16, 32])),
        zero=draw(st.sampled_from(KINDS)),
        column_scale=draw(st.booleans()),
        exponent=draw(st.integers(-100, 100)),
        seed=draw(st.integers(0, 99)),
    )


def by_definition(w):
    rows, columns = w.shape
    expanded = np.zeros((rows, columns), dtype=np.float32)
    scales = w.scales.expand().numpy()
    for i in range(rows):
        for j in range(columns):
            group = j // w.group_size
            zero = (
                np.float32(w.zero_points[i, group])
                if w.zero_points.numel()
                else np.float32((w.alphabet - 1) / 2)
            )
            value = (np.float32(w.codes[i, j]) - zero) * (scales[i, group, 0] * np.float32(2.0**w.exponent))
            expanded[i, j] = value * np.float32(w.column_scale[j]) if w.column_scale.numel() else value
    return expanded


@settings(deadline=None, max_examples=60)
@given(weights())
def test_any_weight_follows_the_definition_comes_back_and_has_the_size_that_is_promised(w):
    assert np.array_equal(w.dequantize().numpy(), by_definition(w))
    packed = w.encode()
    assert UniformWeight.decode(packed) == w
    bits = {torch.uint8: 8, torch.float16: 16, torch.float32: 32}[w.scales.stored.dtype]
    assert packed.nbytes == uniform_nbytes(
        w.shape, w.alphabet, w.group_size, bits, w.zero_kind, w.column_scale.numel() > 0
    )


def test_blocks_of_rows_do_not_show(monkeypatch):
    w = weight(7, 13, 5, zero="free", column_scale=True)
    whole = w.dequantize()
    monkeypatch.setattr("bivlm.formats.uniform._BLOCK", 26)
    assert torch.equal(w.dequantize(), whole)


def test_true_bits_of_two_bits_in_groups_of_128():
    zeros = {"middle": 0, "code": 2, "free": 16}
    for zero, cost in zeros.items():
        assert weight(16, 4096, 128, zero=zero).encode().bits_per_weight() == 2 + (16 + cost) / 128
    assert weight(16, 4096, 128, bits=8).encode().bits_per_weight() == 2 + 8 / 128 + 16 / 4096


REFUSED = {
    "a code outside the alphabet": ({"codes": torch.full((3, 10), 4, dtype=torch.uint8)}, "'codes' holds 4"),
    "an alphabet that no stream has": ({"alphabet": 17}, "'alphabet' is 17"),
    "a group wider than the weight": ({"group_size": 11}, "'group_size' is 11"),
    "an exponent out of range": ({"exponent": 127}, "'exponent' is 127"),
    "a scale below 0": (
        {"scales": Numbers(-torch.ones(3, 3, 1).half(), torch.zeros(0).half())},
        "'scales' holds a number below 0",
    ),
    "signed eight-bit scales": (
        {"scales": Numbers(torch.ones(3, 3, 1, dtype=torch.int8), torch.ones(3, 1).half())},
        "'scales' is int8",
    ),
    "scales of other groups": (
        {"scales": Numbers(torch.ones(3, 2, 1).half(), torch.zeros(0).half())},
        "'scales' is ",
    ),
    "a zero point outside the alphabet": (
        {"zero_points": torch.full((3, 3), 4, dtype=torch.uint8)},
        "'zero_points' holds 4",
    ),
    "a zero point that is not finite": (
        {"zero_points": torch.full((3, 3), torch.inf).half()},
        "'zero_points' holds NaN",
    ),
    "zero points of another dtype": ({"zero_points": torch.zeros(3, 3)}, "'zero_points' is float32"),
    "a column scale of 0": ({"column_scale": torch.zeros(10).half()}, "'column_scale' holds a number"),
    "numbers that overflow": (
        {"scales": Numbers.of(torch.full((3, 3, 1), 60000.0)), "exponent": 126},
        "'scales' times 2.exponent, .* overflow float32",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_held_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"uniform: {message}"):
        dataclasses.replace(weight(), **changes)


WRONG_SETTINGS = {
    "alphabet": 5,
    "group_size": 5,
    "exponent": 2.5,
    "scales": "int8",
    "zero_point": "somewhere",
    "column_scale": 1,
}


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS.items(), ids=WRONG_SETTINGS)
def test_settings_that_contradict_the_tensors_are_refused(name, value):
    packed = weight(zero="code").encode()
    with pytest.raises(ValueError, match="uniform: "):
        UniformWeight.decode(
            PackedTensor("uniform", packed.shape, packed.tensors, {**packed.settings, name: value})
        )


def test_padding_that_is_not_zero_is_refused():
    packed = weight().encode()
    codes = packed.tensors["codes"].clone()
    codes[0, -1] |= 0x80
    with pytest.raises(ValueError, match="uniform: 'codes': "):
        UniformWeight.decode(dataclasses.replace(packed, tensors={**packed.tensors, "codes": codes}))
