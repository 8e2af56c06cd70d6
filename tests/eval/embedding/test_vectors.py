"""Vectors of texts and images do not depend on the batch, and are those of the hidden states themselves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from bivlm.contracts.samples import opened
from bivlm.errors import InputError
from bivlm.eval.embedding.vectors import embed, plain
from bivlm.families import family_of
from bivlm.families.prompts import prompt_text
from bivlm.pruning.apply import prune
from bivlm.types import Sample
from tiny import ALL, KINDS, tiny_model, tiny_processor, tiny_samples
from told import Told

FIRST, SECOND, THIRD = tiny_samples(3)
QUICK = ("llava", "qwen2_vl")
CUTTING = ("idefics2",)  # its processor cuts every image in four, by whole pixels


@cache
def member(kind: str = "llava"):
    return tiny_model(kind), tiny_processor(kind)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_texts_and_images_in_one_batch_are_as_alone(kind: str, prompt):
    model, processor = member(kind)
    reads, texts = family_of(model.config).reads_images, ["a red square", {"text": "what is it?"}]
    if ALL[kind].needs_image:
        with pytest.raises(InputError, match="item 1: the processor refuses"):
            embed(model, processor, texts[:1])
        texts = []
    both = [FIRST, SECOND] if reads else [replace(one, image=None) for one in (FIRST, SECOND)]
    images = [FIRST.image, {"image": SECOND.image}] if reads else []
    items = [both[0], *texts[:1], *images, *texts[1:], both[1]]
    together = embed(model, processor, items, prompt=prompt, batch_size=4)
    alone = torch.cat([embed(model, processor, [item], prompt=prompt) for item in items])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(items)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[0], together[-1], atol=1e-4)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
@pytest.mark.parametrize("size", [(1, 1), (1, 8)])
def test_images_of_a_pixel_have_vectors_of_their_own_colour(kind: str, size: tuple[int, int]):
    """Or a reason: one that cuts images into parts leaves nothing of theirs."""
    model, processor = member(kind)
    images = [Image.new("RGB", size, colour) for colour in ("red", "blue")]
    if kind in CUTTING:
        with pytest.raises(InputError, match=rf"item 1 … item 2 \(an image of {size[0]} x {size[1]} pixels"):
            embed(model, processor, images)
        return
    red, blue = embed(model, processor, images)
    assert red.isfinite().all()
    assert not torch.allclose(red, blue, atol=1e-5)


def test_the_vector_is_the_last_hidden_state_of_the_prompt():
    model, processor = member()
    inputs = family_of(model.config).inputs(processor, [FIRST], opened([FIRST]), model.config)
    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
    for pooling, expected in (("last", states[-1]), ("mean", states.mean(0))):
        found = embed(model, processor, [FIRST], pooling=pooling)[0]
        torch.testing.assert_close(found, expected / expected.norm(), rtol=1e-5, atol=1e-6)


def test_a_system_prompt_is_part_of_every_prompt():
    model, processor = member("qwen2_vl")
    found = embed(model, processor, ["red"], system="Represent it.")
    assert torch.equal(found, embed(model, processor, [Sample(None, "red", system="Represent it.")]))
    assert not torch.allclose(found, embed(model, processor, ["red"]), atol=1e-3)


def test_a_plain_prompt_has_the_image_and_the_text_alone():
    family, processor = plain(family_of("llava"), member()[1])
    assert prompt_text(processor, family, Sample(FIRST.image, "a red square")) == "<image>\na red square"
    assert member()[1].chat_template is not None


def test_progress_and_modes_are_those_of_an_evaluation():
    model, processor = member()
    told = Told()
    model.train()
    embed(model, processor, ["a", "b", "c"], batch_size=2, events=told)
    assert told.steps == [("embeddings", 2, 3), ("embeddings", 3, 3)]
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    ("items", "settings", "said"),
    [
        ([], {}, "there are no items"),
        (["red", "  "], {}, "item 2: the text is empty"),
        ([{"text": None}], {}, "item 1: there is no text and no image"),
        ([{"text": 3}], {}, "item 1: the text must be a text"),
        ([Sample(None, "", origin="a.jsonl:4")], {}, "a.jsonl:4: there is no text and no image"),
        ([Image.new("RGB", (0, 3))], {}, "item 1"),
        ([{"image": "nowhere.png", "text": ""}], {}, "item 1: the"),
        ([Path("nowhere.png")], {}, "item 1: the image nowhere.png does not exist"),
        ([{"image": "nowhere.png"}], {}, "item 1: the image nowhere.png does not exist"),
        (["red"], {"pooling": "first"}, "there is no pooling 'first'"),
        (["red"], {"prompt": "raw"}, "there is no prompt 'raw'"),
        (["red"], {"batch_size": 0}, "the batch size is 0"),
    ],
)
def test_what_cannot_be_embedded_is_named(items, settings, said):
    with pytest.raises(InputError, match=said):
        embed(*member(), items, **settings)


def test_a_model_that_drops_tokens_is_refused():
    model, processor = tiny_model("llava"), tiny_processor("llava")
    prune(model, "attention:layer=1,keep=0.5")
    with pytest.raises(InputError, match="pruning=None"):
        embed(model, processor, ["red"])
