"""Finding the family of a model, and what a user is told when there is none."""

from __future__ import annotations

import pytest
import transformers

from bivlm.errors import InputError
from bivlm.families import FAMILIES, family_of, remote_code
from bivlm.families.pixtral import PIXTRAL
from tiny import tiny_config


def test_found_by_config_and_by_name():
    assert family_of("qwen2_5_vl") is FAMILIES["qwen2_5_vl"]
    assert family_of(tiny_config("llava_siglip")) is FAMILIES["llava"]


def test_unknown_architecture_is_named_with_the_known_ones_and_the_way_to_add_it():
    with pytest.raises(InputError, match="'fuyu' is not supported") as caught:
        family_of(transformers.FuyuConfig())
    assert all(name in str(caught.value) for name in FAMILIES)
    assert "docs/adding.md" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_known_architecture_with_an_unknown_vision_tower_is_refused():
    with pytest.raises(InputError, match=r"vision tower 'siglip2_vis.*clip_vision_model, .*, pixtral;"):
        family_of(transformers.LlavaConfig(vision_config=transformers.Siglip2VisionConfig()))
    assert family_of("llava") is FAMILIES["llava"]


def test_a_family_s_variant_is_found_by_its_vision_tower():
    assert family_of(tiny_config("llava_pixtral")) is PIXTRAL
    assert family_of(tiny_config("llava")) is FAMILIES["llava"]


@pytest.mark.parametrize("model_type", remote_code.CONVERTED)
def test_code_of_a_folder_is_never_run_and_the_converted_model_is_named(model_type: str):
    assert model_type not in transformers.CONFIG_MAPPING
    with pytest.raises(InputError, match=f"'{model_type}' needs the code of its folder") as caught:
        family_of(model_type)
    converted = remote_code.CONVERTED[model_type]
    said = str(caught.value)
    assert (converted or "no class") in said
    assert 0 < said.index(converted or "no class") < said.index("--trust-remote-code")
    assert "\n" not in said
