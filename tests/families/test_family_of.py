"""Finding the family of a model, and what a user is told when there is none."""

from __future__ import annotations

import pytest
import transformers

from bivlm.errors import InputError
from bivlm.families import FAMILIES, family_of
from tiny import tiny_config


def test_found_by_config_and_by_name():
    assert family_of("qwen2_5_vl") is FAMILIES["qwen2_5_vl"]
    assert family_of(tiny_config("llava_siglip")) is FAMILIES["llava"]


def test_unknown_architecture_is_named_with_the_known_ones_and_the_way_to_add_it():
    with pytest.raises(InputError, match="'aya_vision' is not supported") as caught:
        family_of(transformers.AyaVisionConfig())
    assert all(name in str(caught.value) for name in FAMILIES)
    assert "docs/adding.md" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_known_architecture_with_an_unknown_vision_tower_is_refused():
    with pytest.raises(InputError, match=r"vision tower 'pixtral'.*clip_vision_model, siglip_vision_model"):
        family_of(transformers.LlavaConfig(vision_config=transformers.PixtralVisionConfig()))
    assert family_of("llava") is FAMILIES["llava"]
