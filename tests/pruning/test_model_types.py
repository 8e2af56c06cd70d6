"""Dropping tokens in models that have no declaration and no tiny member: the tokens that stay compute what
they compute in the whole model with the dropped tokens masked; and who cannot drop any says why.
"""

from __future__ import annotations

import dataclasses

import pytest
import transformers

from bivlm import families
from bivlm.errors import InputError
from bivlm.families.found.find import auto_class_of, small_model, structure_of
from bivlm.families.found.structure import ImageToken
from bivlm.pruning.apply import describe, prune
from family_table import IN_TOWER, PRUNING, config_of
from masked_model import pruning_differs

SLOW = (
    "glm4v_moe",
    "fuyu",
    "qwen3_vl",
    "cosmos3_omni",
    "instructblip",
    "instructblipvideo",
    "video_llava",
    "kimi_k25",
)
TOWERS = ("qwen3_vl_moe", "qianfan_ocr", "janus", "video_llama_3", "muse_glimmer", "video_llava")
REFUSED = {
    "florence2": "a decoder reads all that its encoder makes of the prompt",
    "blip": "a cross-attention that bivlm does not know .BlipTextLayer has no cross_attn",
    "git": "no token of its prompt stands for a part of an image",
}


def slowly(names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def small(model_type):
    """A small model of a type, asked with made-up inputs; its family is known as a found one is."""
    config = config_of(model_type)
    made = small_model(config, getattr(transformers, auto_class_of(model_type)), None)
    structure = structure_of(made, config)
    moved = {old: new for new, old in made.shrunk.tokens.items()}
    token = structure.image_token_id
    own = ImageToken(None if token is None else moved.get(token, token))
    families.remember(made.model.config, dataclasses.replace(structure.family, image_token_id=own))
    return made


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(families, "FOUND", {})


# positions of three axes and a router that reads token types; embeddings for every block; patches as they are
@pytest.mark.parametrize("model_type", ["ernie4_5_vl_moe", "gemma4", *slowly(SLOW)])
def test_what_stays_computes_what_a_masked_model_does(model_type):
    made = small(model_type)
    assert pruning_differs(made.model, made.three.question, PRUNING) == ""


@pytest.mark.parametrize("model_type", ["glm4v_moe", *slowly(TOWERS)])
def test_patches_that_leave_a_found_tower_are_seen_by_nobody(model_type):
    made = small(model_type)
    for question in (made.three.question, *made.three.two_images):
        assert pruning_differs(made.model, question, IN_TOWER) == ""


@pytest.mark.parametrize("model_type", slowly(REFUSED))
def test_who_cannot_drop_tokens_says_why(model_type):
    made = small(model_type)
    with pytest.raises(InputError, match=REFUSED[model_type]):
        prune(made.model, "grid:layer=0,keep=0.5")
    assert describe(made.model) is None
