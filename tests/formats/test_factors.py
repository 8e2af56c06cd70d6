"""`factors` against a loop over its definition, its exact size, and everything that it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bivlm.formats import FactorsWeight, PackedTensor
from bivlm.formats.factors import factors_nbytes


def weight(rows=3, columns=10, rank=4, *, exponent=0, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    return FactorsWeight(
        left_signs=normal(rows, rank) > 0,
        right_signs=normal(rank, columns) > 0,
        row_scale=normal(rows).half(),
        middle_scale=normal(rank).half(),
        column_scale=normal(columns).half(),
        exponent=exponent,
    )


@st.composite
def weights(draw):
    rows, columns, rank = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    return weight(rows, columns, rank, exponent=draw(st.integers(-100, 100)), seed=draw(st.integers(0, 99)))


def by_definition(w):
    """In float64, and how much the summands add up to without their signs: what the rounding of float32 sums
    is measured by.
    """
    rows, columns = w.shape
    expanded, size = np.zeros((rows, columns)), np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            outer = float(w.row_scale[i]) * 2.0**w.exponent * float(w.column_scale[j])
            for k in range(w.rank):
                sign = 1 if w.left_signs[i, k] == w.right_signs[k, j] else -1
                expanded[i, j] += outer * sign * float(w.middle_scale[k])
                size[i, j] += abs(outer * float(w.middle_scale[k]))
    return expanded, size


@settings(deadline=None, max_examples=60)
@given(weights())
def test_any_weight_follows_the_definition_comes_back_and_has_the_size_that_is_promised(w):
    expanded, size = by_definition(w)
    assert np.all(np.abs(w.dequantize().double().numpy() - expanded) <= 1e-5 * size)
    packed = w.encode()
    assert FactorsWeight.decode(packed) == w
    assert packed.nbytes == factors_nbytes(w.shape, w.rank)
    assert packed.settings["rank"] == w.rank


def test_true_bits_of_a_square_of_half_its_rank():
    assert weight(512, 512, 256).encode().bits_per_weight() == 1 + 16 * (512 + 256 + 512) / 512**2


def test_a_weight_of_another_exponent_is_that_many_times_as_large():
    assert torch.equal(weight(exponent=5).dequantize(), 32 * weight().dequantize())


def test_minus_zero_is_not_zero():
    w = dataclasses.replace(weight(), middle_scale=torch.zeros(4).half())
    assert w != dataclasses.replace(w, middle_scale=-w.middle_scale)


REFUSED = {
    "signs in one dimension": ({"left_signs": torch.zeros(3, dtype=torch.bool)}, "'left_signs' is "),
    "no rank": ({"left_signs": torch.zeros(3, 0, dtype=torch.bool)}, "'left_signs' is "),
    "no columns": ({"right_signs": torch.zeros(4, 0, dtype=torch.bool)}, "'right_signs' is "),
    "signs that are bytes": (
        {"right_signs": torch.zeros(4, 10, dtype=torch.uint8)},
        "'right_signs' is uint8",
    ),
    "two ranks": ({"right_signs": torch.zeros(5, 10, dtype=torch.bool)}, "'right_signs' is "),
    "scales of other rows": ({"row_scale": torch.ones(4).half()}, "'row_scale' is "),
    "scales in float32": ({"middle_scale": torch.ones(4)}, "'middle_scale' is float32"),
    "scales of other columns": ({"column_scale": torch.ones(1).half()}, "'column_scale' is "),
    "a scale that is not finite": (
        {"middle_scale": torch.full((4,), torch.nan).half()},
        "'middle_scale' holds NaN",
    ),
    "an exponent out of range": ({"exponent": -127}, "'exponent' is -127"),
    "an exponent that is no integer": ({"exponent": True}, "'exponent' is True"),
    "numbers that overflow": (
        {"row_scale": torch.full((3,), 60000.0).half(), "exponent": 126},
        "'row_scale' times 2.exponent, .* overflow float32",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_held_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"factors: {message}"):
        dataclasses.replace(weight(), **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 5), ("rank", 0), ("rank", 4.0), ("rank", "4"), ("exponent", 2.5), ("exponent", 127)],
)
def test_settings_that_are_wrong_or_contradict_the_tensors_are_refused(name, value):
    packed = weight().encode()
    with pytest.raises(ValueError, match="factors: "):
        FactorsWeight.decode(
            PackedTensor("factors", packed.shape, packed.tensors, {**packed.settings, name: value})
        )


@pytest.mark.parametrize("name", ["left_signs", "right_signs"])
def test_padding_that_is_not_zero_is_refused(name):
    packed = weight().encode()
    signs = packed.tensors[name].clone()
    signs[0, -1] |= 0x80
    with pytest.raises(ValueError, match=f"factors: '{name}': "):
        FactorsWeight.decode(dataclasses.replace(packed, tensors={**packed.tensors, name: signs}))


def test_another_format_and_a_shape_that_is_none_are_refused():
    packed = weight().encode()
    for wrong in ({"format": "uniform"}, {"shape": (3, 0)}, {"shape": (30,)}):
        with pytest.raises(ValueError, match="factors: the "):
            FactorsWeight.decode(dataclasses.replace(packed, **wrong))
