"""A found family in config.json: it comes back the same, and nothing else is taken for one."""

from __future__ import annotations

import json

import pytest
from torch import nn

from bivlm.errors import InputError
from bivlm.families.base import Stack
from bivlm.families.found.record import check_paths, read_record, to_record
from bivlm.families.found.structure import family_from

FAMILY = family_from(
    "mine",
    "AutoModelForImageTextToText",
    (Stack("vision", "tower.blocks"), Stack("language", "layers", visual_linears=("cross.k_proj",))),
    ("lm_head", "tower.embed.*"),
    7,
    1,
)


def test_round_trip():
    record = json.loads(json.dumps(to_record(FAMILY)))
    assert read_record("mine", record) == FAMILY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("auto_class", "AutoModel"),
        ("auto_class", ["AutoModelForCausalLM"]),
        ("stacks", []),
        ("stacks", "layers"),
        ("stacks", [{"part": "language", "path": "layers"}]),
        ("stacks", [{"part": "audio", "path": "layers", "visual_linears": []}]),
        ("stacks", [{"part": "language", "path": "layers..0", "visual_linears": []}]),
        ("stacks", [{"part": "language", "path": "a" * 301, "visual_linears": []}]),
        ("stacks", [{"part": "language", "path": "layers", "visual_linears": [1]}]),
        ("full_precision", ["a"] * 1001),
        ("full_precision", ["[a-z]"]),
        ("image_token_id", -1),
        ("image_token_id", True),
        ("image_token_id", 1.5),
        ("answer_token_type", 2),
        ("answer_token_type", None),
    ],
)
def test_other_values_are_refused(field, value):
    with pytest.raises(InputError, match=r"^quantization_config: family: \w+ is .*; needs ") as caught:
        read_record("mine", {**to_record(FAMILY), field: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("record", [None, [], {}, {**to_record(FAMILY), "code": "print()"}])
def test_other_objects_are_refused(record):
    with pytest.raises(InputError, match="needs the fields"):
        read_record("mine", record)


def test_paths_must_be_in_the_model():
    model = nn.ModuleDict({"tower": nn.ModuleDict({"blocks": nn.ModuleList()}), "layers": nn.ModuleList()})
    check_paths(model, FAMILY)
    del model["layers"]
    with pytest.raises(InputError, match=r"stack layers is not in ModuleDict"):
        check_paths(model, FAMILY)
