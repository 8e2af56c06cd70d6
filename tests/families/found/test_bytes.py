"""A found family packs the very bytes that a declared one does: only config.json says more, namely what was
found.
"""

from __future__ import annotations

import json
import re

import pytest
import torch

from bivlm import families
from bivlm.families import family_of
from bivlm.job.run import quantize
from bivlm.quantizers import RTN
from tiny import tiny_checkpoint, tiny_config, tiny_samples

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
RECIPES = {"rtn-2": {"recipe": RTN(bits=2)}, "trellis-2": {"recipe": "trellis-2", "data": tiny_samples(3)}}
KINDS = ("qwen3_vl", "llava", "internvl", "mistral3")
FAST = {("qwen3_vl", "rtn-2")}
CASES = [
    pytest.param(kind, recipe, marks=() if (kind, recipe) in FAST else pytest.mark.slow)
    for kind in KINDS
    for recipe in RECIPES
]


@pytest.mark.parametrize(("kind", "recipe"), CASES)
def test_found_and_declared_give_the_same_files(kind, recipe, tmp_path, monkeypatch):
    folder = tiny_checkpoint(kind, tmp_path / "model", torch.bfloat16)
    config = tiny_config(kind)
    declared = quantize(folder, tmp_path / "declared", **RECIPES[recipe])
    assert family_of(config).origin == "declared"
    monkeypatch.delitem(families._TABLE.built_in, config.model_type)
    monkeypatch.setattr(families, "FOUND", {})
    found = quantize(folder, tmp_path / "found", **RECIPES[recipe])
    names = sorted(path.name for path in declared.iterdir())
    assert sorted(path.name for path in found.iterdir()) == names
    for name in names:
        if name not in (CONFIG, INDEX):
            assert (found / name).read_bytes() == (declared / name).read_bytes(), name
    ours, theirs = (json.loads((one / CONFIG).read_text()) for one in (found, declared))
    assert ours["quantization_config"].pop("family")["patches"]["fold"] >= 1
    places = [one["quantization_config"].pop("stacks")["paths"] for one in (ours, theirs)]  # and a checksum
    assert places[0] == places[1]
    assert ours == theirs
    ours, theirs = ((one / INDEX).read_text() for one in (found, declared))
    assert len(ours) == len(theirs)
    assert without_checksum(ours) == without_checksum(theirs)


def without_checksum(index: str) -> str:
    """The index without what it says of config.json, which holds the record."""
    return re.sub(rf'("{CONFIG}": ?)"[0-9a-f]{{8}}"', r"\1", index)
