"""A found family in config.json: it comes back the same, and nothing else is taken for one."""

from __future__ import annotations

import json

import pytest
from torch import nn

from bivlm.errors import InputError
from bivlm.families.base import Stack
from bivlm.families.found.patches import Patches, PatchTokens, TokenGrids, TowerOutputs
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


GRIDS = TokenGrids("image_grid_thw", 2)
PRUNED = [
    Patches(PatchTokens("groups", 2, 0, GRIDS), TowerOutputs(1)),
    Patches(PatchTokens("tiles", 1, 1), TowerOutputs(2)),
]


def with_patches(patches):
    return family_from("mine", FAMILY.auto_class, FAMILY.stacks, FAMILY.full_precision, 7, 1, patches=patches)


@pytest.mark.parametrize("family", [FAMILY, *map(with_patches, PRUNED)])
def test_round_trip(family):
    record = json.loads(json.dumps(to_record(family)))
    assert read_record("mine", record) == family
    assert ("patches" in record) == (family.patch_tokens is not None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", "rows"),
        ("order", None),
        ("fold", 0),
        ("fold", True),
        ("left_out", -1),
        ("from_end", 1001),
        ("grids", {"name": "image_grid_thw"}),
        ("grids", {"name": "a()", "unit": 2}),
        ("grids", {"name": "image_grid_thw", "unit": 0}),
        ("grids", [2]),
        ("code", "print()"),
    ],
)
def test_other_patches_are_refused(field, value):
    record = to_record(with_patches(PRUNED[0]))
    record["patches"] = {**record["patches"], field: value}
    with pytest.raises(InputError, match=r"^quantization_config: family: \w+ is .*; needs "):
        read_record("mine", record)
    with pytest.raises(InputError, match=r"family: patches is None; needs the fields"):
        read_record("mine", {**record, "patches": None})


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
    with pytest.raises(InputError, match=r"from_end is 1; needs a block of the tower"):
        check_paths(model, with_patches(PRUNED[0]))
    del model["layers"]
    with pytest.raises(InputError, match=r"stack layers is not in ModuleDict"):
        check_paths(model, FAMILY)
