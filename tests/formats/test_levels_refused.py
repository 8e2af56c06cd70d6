"""What `levels` refuses, in a weight and in a file: every field, setting and tensor by its name."""

import dataclasses

import pytest
import torch

from bivlm.formats.base import PackedTensor
from bivlm.formats.levels import LevelsWeight
from made_weights import half, octets
from made_weights import made_levels as make

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


VALUED = {
    "values of another dtype": ({"tail_values": torch.ones(2)}, "'tail_values' is float32"),
    "a value too few": ({"tail_values": half(1)}, "'tail_values' is"),
    "a value that is no number": ({"tail_values": half(1, float("nan"))}, "'tail_values' holds NaN"),
    "values that overflow": ({"tail_values": half(9, 1), "scale": torch.tensor(1e38)}, "'tail_values' overf"),
    "codes as well": ({"tail_codes": octets(1, 2)}, "'tail_codes' is"),
    "levels as well": ({"tail_levels": half(0, 1, 2, 3)}, "'tail_levels' must be zeros"),
    "row scales as well": ({"tail_scale": half(1, 1, 1)}, "'tail_scale' is"),
    "no positions": ({"tail_positions": torch.zeros(0, dtype=torch.int64)}, "'tail_values' is"),
    "a code under the tail": ({"codes": torch.ones(3, 5, dtype=torch.uint8)}, "'codes' must be 0"),
    "positions beyond": ({"tail_positions": torch.tensor([2, 15])}, "'tail_positions' must lie"),
}


@pytest.mark.parametrize(("changes", "message"), VALUED.values(), ids=VALUED)
def test_a_wrong_field_of_a_tail_of_values_is_refused_by_name(changes, message):
    weight = make(3, 5, alphabet=4, symmetric=True, group_size=3, tail=(2, 9), values=True)
    with pytest.raises(ValueError, match=f"^levels: .*{message}"):
        dataclasses.replace(weight, **changes)


def test_the_kind_of_tail_has_one_spelling():
    """A file says "values" or nothing, and only if it has a tail."""
    valued, coded, none = (
        make(3, 5, alphabet=4, **more).encode()
        for more in ({"tail": (2, 9), "values": True}, {"tail": (2, 9)}, {})
    )
    for packed, kind, message in (
        (valued, "levels", "'tail_kind' is 'levels'; needs one of values"),
        (valued, 1, "'tail_kind' is 1"),
        (coded, "values", "'tail_values' is missing"),
        (none, "values", "'tail' is 0; needs 1"),
    ):
        with pytest.raises(ValueError, match=message):
            LevelsWeight.decode(dataclasses.replace(packed, settings={**packed.settings, "tail_kind": kind}))


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
