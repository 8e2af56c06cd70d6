"""What `planes` refuses, in a weight and in a file: every field, setting and tensor by its name."""

import dataclasses

import pytest
import torch

from bivlm.formats.base import PackedTensor
from bivlm.formats.encoding.numbers import Numbers
from bivlm.formats.planes import PlanesWeight
from made_weights import half, octets
from made_weights import made_planes as make


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
