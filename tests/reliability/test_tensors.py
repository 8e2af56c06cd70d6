"""Broken packed weights: the first mutants of the fuzzer, and by name what once got through."""

import dataclasses

import pytest
import torch

from bivlm.formats import format_named
from bivlm.kernels.table import kernel_for
from reliability.corpus import corpus, trellis_weight
from reliability.tensor_mutants import mutant, with_tensor
from reliability.tensor_verdict import Fault, verdict
from weights import factors, levels, planes, uniform

COUNT = 2000


def with_numbers(packed, name, value):
    """The first number of a tensor replaced."""
    tensor = packed.tensors[name].clone()
    tensor.view(-1)[0] = value
    return with_tensor(packed, name, tensor)


def with_settings(packed, **changes):
    return dataclasses.replace(packed, settings={**packed.settings, **changes})


def without_settings(packed, name):
    return dataclasses.replace(
        packed, settings={key: value for key, value in packed.settings.items() if key != name}
    )


LEVELS, TAIL = levels(8, 64).encode(), levels(8, 64, tail=0.1).encode()
VALUES = levels(8, 64, tail=0.1, values=True).encode()
RADIX = levels(4, 64, alphabet=6).encode()
SEVEN, TEN = levels(4, 64, alphabet=7).encode(), levels(4, 64, alphabet=10).encode()
UNIFORM = uniform(8, 60, bits=8, zero="free", column_scale=True).encode()
UNIFORM_CODES = uniform(8, 60, group_size=16, alphabet=3, zero="code").encode()
BLOCKS, SIGNS = planes(8, 64, group_size=32).encode(), planes(8, 61, group_size=20, bits=8).encode()
OTHER_PLANES = corpus()["planes, tail"]
FACTORS, TRELLIS = factors(8, 60, 20).encode(), trellis_weight(20, 48).encode()
NAN, INFINITY = float("nan"), float("inf")

REFUSED = {
    "levels: a scale of NaN": with_numbers(LEVELS, "scale", NAN),
    "levels: a scale below zero": with_numbers(LEVELS, "scale", -1.0),
    "levels: a scale of zero": with_numbers(LEVELS, "scale", 0.0),
    "levels: an infinite level": with_numbers(LEVELS, "levels", -INFINITY),
    "levels: a tail scale below zero": with_numbers(TAIL, "tail_scale", -1.0),
    "levels: a tail scale of NaN": with_numbers(TAIL, "tail_scale", NAN),
    "levels: tail levels that fall": with_numbers(TAIL, "tail_levels", 9.0),
    "levels: a tail value of NaN": with_numbers(VALUES, "tail_values", NAN),
    "levels: a code under a tail value": with_numbers(VALUES, "codes", 255),
    "levels: a value too few": with_tensor(VALUES, "tail_values", VALUES.tensors["tail_values"][1:]),
    "levels: tail values, and the setting for none": without_settings(VALUES, "tail_kind"),
    "levels: another kind of tail": with_settings(VALUES, tail_kind="levels"),
    "levels: tail codes, and the setting for values": with_settings(TAIL, tail_kind="values"),
    "levels: values of no tail": with_settings(LEVELS, tail_kind="values"),
    "levels: a word of no symbols": with_numbers(RADIX, "codes", 255),
    "levels: a code of seven among seven": with_numbers(SEVEN, "codes", 255),
    "levels: a word that crosses bytes": with_tensor(TEN, "codes", torch.full((4, 28), 255).byte()),
    "levels: a group size of another type": with_settings(LEVELS, group_size=[64]),
    "levels: no alphabet": without_settings(LEVELS, "alphabet"),
    "levels: far more tail than weights": with_settings(TAIL, tail=1 << 60),
    "uniform: scales of an object": with_settings(UNIFORM, scales={"a": 1}),
    "uniform: a unit of NaN": with_numbers(UNIFORM, "scale_unit", NAN),
    "uniform: a unit below zero": with_numbers(UNIFORM, "scale_unit", -1.0),
    "uniform: a free zero point of infinity": with_numbers(UNIFORM, "zero_points", INFINITY),
    "uniform: a column scale of zero": with_numbers(UNIFORM, "column_scale", 0.0),
    "uniform: a zero point that is no code": with_numbers(UNIFORM_CODES, "zero_points", 255),
    "uniform: no zero point": without_settings(UNIFORM, "zero_point"),
    "planes: a scale of infinity in a block": with_tensor(
        BLOCKS,
        "blocks",
        torch.cat([torch.tensor([0, 0x7C]).byte(), BLOCKS.tensors["blocks"].flatten()[2:]]).view(8, 2, 6),
    ),
    "planes: bits after the last column": with_tensor(SIGNS, "signs", torch.full((8, 8), 255).byte()),
    "planes: a unit of infinity": with_numbers(SIGNS, "scale_unit", INFINITY),
    "planes: no parts": without_settings(SIGNS, "parts"),
    "planes: means of a list": with_settings(SIGNS, means=[]),
    "planes: a width that no tensor has": dataclasses.replace(OTHER_PLANES, shape=(8, 1 << 63)),
    "factors: a middle scale of NaN": with_numbers(FACTORS, "middle_scale", NAN),
    "factors: a column scale of infinity": with_numbers(FACTORS, "column_scale", INFINITY),
    "factors: bits after the rank": with_tensor(FACTORS, "left_signs", torch.full((8, 3), 255).byte()),
    "factors: a rank of true": with_settings(FACTORS, rank=True),
    "trellis: a row scale of NaN": with_numbers(TRELLIS, "row_scale", NAN),
    "trellis: five bits": with_numbers(TRELLIS, "bits", 5),
    "trellis: a window of a list": with_settings(TRELLIS, window=[8]),
    "trellis: a seed beyond 63 bits": with_settings(TRELLIS, seed=1 << 63),
    "a shape of words": dataclasses.replace(LEVELS, shape=("8", 64)),
    "a shape of one number": dataclasses.replace(LEVELS, shape=(8,)),
    "a shape that is none": dataclasses.replace(LEVELS, shape=None),
    "settings that are a list": dataclasses.replace(LEVELS, settings=["alphabet"]),
    "settings that have a number as name": dataclasses.replace(LEVELS, settings={**LEVELS.settings, 7: 0}),
    "a format that is a list": dataclasses.replace(LEVELS, format=["levels"]),
    "a format that is not there": dataclasses.replace(LEVELS, format="zip"),
    "a tensor that is a list": with_tensor(LEVELS, "scale", [0.5]),
    "a tensor that is sparse": with_tensor(LEVELS, "scale", LEVELS.tensors["scale"].to_sparse()),
    "a tensor on meta": with_tensor(LEVELS, "codes", LEVELS.tensors["codes"].to("meta")),
    "a tensor without dimensions": with_tensor(UNIFORM, "codes", torch.tensor(1, dtype=torch.uint8)),
}


def test_the_corpus_is_accepted():
    """By the kernels for few tokens and for many, in turn."""
    found = {name: verdict(packed, seed) for seed, (name, packed) in enumerate(corpus().items())}
    assert found == dict.fromkeys(corpus(), "accepted")


@pytest.mark.parametrize("packed", REFUSED.values(), ids=REFUSED)
def test_refused_by_every_reader(packed):
    assert verdict(packed) == "refused"


def test_the_first_mutants():
    """Refused by all, or accepted by all with the same numbers; `make fuzz` runs many more."""
    found = [verdict(mutant(seed).packed, seed) for seed in range(COUNT)]
    assert min(found.count("refused"), found.count("accepted")) > COUNT / 10


def test_a_mutant_belongs_to_its_seed():
    one, other = mutant(42), mutant(42)
    assert (one.origin, one.changes, one.packed.settings) == (
        other.origin,
        other.changes,
        other.packed.settings,
    )
    assert all(torch.equal(one.packed.tensors[name], tensor) for name, tensor in other.packed.tensors.items())
    assert len({mutant(seed).changes for seed in range(100)}) > 50


@pytest.mark.parametrize("name", ["decode", "check_packed", "unpack_rows"])
def test_a_reader_that_is_too_trusting_is_a_fault(name, monkeypatch):
    """The verdict finds what it looks for."""
    packed = REFUSED["levels: a scale of NaN"]
    weight = format_named("levels")
    if name == "unpack_rows":
        packed = LEVELS
        monkeypatch.setattr(weight, name, classmethod(lambda *_: torch.zeros(2, 64)))
    elif name == "check_packed":
        monkeypatch.setattr(weight, name, classmethod(lambda *_: None))
    else:
        monkeypatch.setattr(weight, name, classmethod(lambda *_: {}["alphabet"]))
    with pytest.raises(Fault):
        verdict(packed)


@pytest.mark.parametrize("format_", [None, [], "zip", 3])
def test_there_is_no_kernel_for_a_format_that_is_none(format_):
    with pytest.raises(ValueError, match="the format is"):
        kernel_for(format_, "cpu")
