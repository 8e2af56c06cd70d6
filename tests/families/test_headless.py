"""A model without a language head is packed, loaded and embeds; asked for answers, it says what it lacks."""

from __future__ import annotations

import json

import pytest
import torch

import bivlm
from bivlm.errors import InputError
from bivlm.eval.embedding.vectors import embed
from bivlm.families import family_of
from bivlm.families.headless import is_headless
from bivlm.job.request import make_request
from bivlm.job.run import prepare
from bivlm.types import Sample
from tiny import tiny_config, tiny_model, tiny_processor, tiny_samples

ITEMS = [*tiny_samples(2), Sample(None, "a red square")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("headless") / "base"
    tiny_model("qwen2_vl").model.save_pretrained(place)
    tiny_processor("qwen2_vl").save_pretrained(place)
    assert json.loads((place / "config.json").read_text())["architectures"] == ["Qwen2VLModel"]
    return place


def test_its_vectors_are_those_of_the_model_with_a_head(folder):
    model, processor = bivlm.load(folder)
    assert model.get_output_embeddings() is None
    whole = tiny_model("qwen2_vl")
    torch.testing.assert_close(embed(model, processor, ITEMS), embed(whole, processor, ITEMS))


def test_it_is_packed_for_its_vectors_and_not_for_answers(folder, tmp_path):
    with pytest.raises(InputError, match="Qwen2VLModel has no language head"):
        prepare(folder, make_request("trellis-2"))
    settings = {"fidelity": "embedding", "budget_from": "gradients"}
    how = {"recipe": "trellis-2", "bits": 2.5, "settings": settings, "parts": ("projector",)}
    out = bivlm.quantize(folder, tmp_path / "out", data=ITEMS, **how)
    model, processor = bivlm.load(out)
    exact = embed(*bivlm.load(folder), ITEMS)
    assert 0 < float((1 - (embed(model, processor, ITEMS) * exact).sum(1)).mean()) < 0.5
    with pytest.raises(InputError, match="no language head, and so no answers"):
        bivlm.answer(model, processor, None, "Is it red?")


def test_only_the_class_without_a_head_is_taken_so():
    config = tiny_config("qwen2_vl")
    assert not is_headless(config)
    assert family_of(config).auto_class == "AutoModelForImageTextToText"
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    assert not is_headless(config)
    config.architectures = ["Qwen2VLModel"]
    assert family_of(config).stacks[-1].path == "language_model.layers"
