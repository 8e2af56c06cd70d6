"""Hooks on a running model: what a pruner is shown, when a decision is made, what is said, and that nothing
is left behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from bivlm.cutting import Kept
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError
from bivlm.eval.run import evaluate
from bivlm.families import family_of
from bivlm.pruning import Pruner
from bivlm.pruning.apply import active_pruning, describe, prune
from bivlm.pruning.dropping.cache import PrunedLayer, cache_argument
from bivlm.pruning.dropping.state import Call, Decision, decision_from
from bivlm.types import Sample, Video
from tiny import tiny_model, tiny_processor, tiny_samples
from videos import frames

_models: dict[str, Any] = {}


@pytest.fixture
def model(request):
    found = _models.setdefault(request.param, tiny_model(request.param))
    found.kind = request.param
    yield found
    prune(found, None)


def on(*kinds):
    return pytest.mark.parametrize("model", kinds, indirect=True)


def ask(model, *numbers):
    samples = [tiny_samples(3)[number] for number in numbers]
    return family_of(model.config).inputs(
        tiny_processor(model.kind), samples, [sample.image for sample in samples], model.config
    )


@torch.inference_mode()
def logits(model, **inputs):
    return model(**{"use_cache": False, **inputs}).logits


class Spy(Pruner):
    """Keeps the first ones and remembers what it was shown."""

    name = "spy"

    def __init__(self, queries=None):
        self.asks, self.seen = queries, []

    @property
    def queries(self):
        return self.asks

    def select(self, candidates, k):
        self.seen.append(candidates)
        return torch.arange(k)


def shown(model, inputs, where="layer=1", queries=None):
    spy = Spy(queries)
    prune(model, f"grid:{where},keep=0.3", pruner=spy)
    logits(model, **inputs)
    return spy.seen


FILMED = Sample(Video(frames(4)), "Is it red?", origin="the clip")


@on("qwen2_vl", "llava_onevision")
def test_videos_with_pixels_of_their_own_are_refused_before_anything_runs(model):
    processor, family = tiny_processor(model.kind), family_of(model.config)
    inputs = family.inputs(processor, [FILMED], open_visuals([FILMED]), model.config)
    prune(model, "grid:layer=1,keep=0.5")
    with pytest.raises(
        InputError, match="the clip: dropping visual tokens is not offered for videos in this"
    ):
        evaluate(model, processor, [replace(sample, origin="x") for sample in tiny_samples(1)] + [FILMED])
    with pytest.raises(InputError, match="not offered for videos"):
        logits(model, **inputs)
    with pytest.raises(InputError, match="not offered for videos"):
        model.generate(**inputs, max_new_tokens=1)
    prune(model, "grid:layer=1,keep=1")
    assert logits(model, **inputs).isfinite().all()


@on("smolvlm")
@pytest.mark.parametrize("pruning", ["attention:layer=1,keep=0.5", "grid:layer=0,keep=0.5"])
def test_frames_that_are_read_as_images_are_pruned_as_images(model, pruning):
    """SmolVLM's four frames of four tokens are the candidates, as those of four images are."""
    processor, family, heard = tiny_processor(model.kind), family_of(model.config), []
    inputs = family.inputs(processor, [FILMED], open_visuals([FILMED]), model.config)
    whole = logits(model, **inputs)
    prune(model, pruning, on_decision=heard.append)
    pruned = logits(model, **inputs)
    assert heard[0].offered == (16,)
    assert len(heard[0].chosen[0]) == 8
    assert pruned.shape[1] == whole.shape[1] - 8
    assert pruned.isfinite().all()


@on("llava", "qwen2_5_vl")
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("queries", ["all", "last"])
def test_received_is_what_the_models_own_eager_attention_says(model, layer, queries):
    """In a batch with padding, by loops over the attention weights that the model returns."""
    inputs = ask(model, 0, 1, 2)
    seen = shown(model, inputs, f"layer={layer}", queries)
    prune(model, None)
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        outputs = model(**inputs, use_cache=False, output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation(implementation)
    weights, visual = (
        outputs.attentions[layer].mean(1).double().numpy(),
        family_of(model.config).visual_mask(model.config, inputs["input_ids"]),
    )
    for row, candidates in enumerate(seen):
        tokens = visual[row].nonzero()[:, 0]
        real = inputs["attention_mask"][row].bool().numpy()
        attending = [r for r in range(len(real)) if real[r]][-1 if queries == "last" else 0 :]
        expected = [
            np.mean([weights[row, r, token] for r in attending if r >= token]) for token in tokens.tolist()
        ]
        np.testing.assert_allclose(candidates.scores.numpy(), expected, rtol=2e-4, atol=1e-7)
        torch.testing.assert_close(candidates.features, outputs.hidden_states[layer][row, tokens])


@on("llava", "qwen2_vl")
def test_a_pruner_that_asks_for_no_attention_gets_none_and_places_are_the_grids(model):
    inputs = ask(model, 0, 2)
    seen = shown(model, inputs)
    shapes = (
        [(4, 4)] * 2
        if model.kind == "llava"
        else [(int(h) // 2, int(w) // 2) for _, h, w in inputs["image_grid_thw"]]
    )
    assert model.kind == "llava" or any(rows != columns for rows, columns in shapes)
    for candidates, (rows, columns) in zip(seen, shapes, strict=True):
        assert candidates.scores is None
        assert candidates.places.tolist() == [
            [0, row, column] for row in range(rows) for column in range(columns)
        ]


@on("llava", "qwen2_5_vl", "mllama")
def test_a_seed_is_its_prompts_own(model):
    """The same alone, again, and padded in a batch; another prompt has another."""
    together = [candidates.seed for candidates in shown(model, ask(model, 0, 1, 2))]
    alone = [shown(model, ask(model, number))[0].seed for number in range(3)]
    assert together == alone
    assert len(set(alone)) == 3


@on("llava")
def test_a_lot_is_the_same_alone_and_in_a_batch(model):
    prune(model, "random:layer=1,keep=0.3")
    logits(model, **ask(model, 0, 1, 2))
    together = active_pruning(model).last.chosen
    for number in range(3):
        logits(model, **ask(model, number))
        assert torch.equal(active_pruning(model).last.chosen[0], together[number])


@on("llava", "qwen2_5_vl")
def test_embeddings_alone_are_left_alone_which_is_said_once(model, caplog):
    ids = tiny_processor(model.kind).tokenizer("Is it red?", return_tensors="pt").input_ids
    with torch.inference_mode():
        embedded = model.get_input_embeddings()(ids)
    expected = logits(model, inputs_embeds=embedded)
    prune(model, "grid:layer=1,keep=0.3")
    for _ in range(2):
        assert torch.equal(logits(model, inputs_embeds=embedded), expected)
    said = [record.message for record in caplog.records if "nothing is pruned" in record.message]
    assert said == [
        "the model was called with embeddings instead of token ids, so its visual tokens are not known:"
        " nothing is pruned"
    ]
    assert active_pruning(model).last is None


def one_token_image(model):
    """A prompt whose picture is a single visual token: 2 × 2 patches of Qwen2-VL, merged."""
    token = tiny_processor(model.kind).tokenizer.convert_tokens_to_ids
    text = tiny_processor(model.kind).tokenizer("Is it red?").input_ids
    ids = torch.tensor([[token("<|vision_start|>"), token("<|image_pad|>"), token("<|vision_end|>"), *text]])
    pixels = torch.randn(4, 3 * 2 * 8 * 8, generator=torch.Generator().manual_seed(0))
    types = (ids == token("<|image_pad|>")).int()
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types,
        "pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 2, 2]]),
    }  # fmt: skip


@on("qwen2_vl")
@pytest.mark.parametrize("where", ["layer=0", "site=input", "site=vision,layer=1"])
def test_the_only_token_of_an_image_stays(model, where):
    inputs = one_token_image(model)
    expected = logits(model, **inputs)
    prune(model, f"diversity:{where},keep=0.01")
    with torch.inference_mode():
        outputs = model(**inputs, use_cache=True)
    assert torch.equal(outputs.logits, expected)
    assert active_pruning(model).last is None
    assert not any(isinstance(layer, PrunedLayer) for layer in outputs.past_key_values.layers)


@on("llava", "mllama")
@pytest.mark.parametrize("use_cache", [True, False])
def test_one_decision_for_all_that_is_generated(model, use_cache):
    heard = []
    prune(model, "attention:layer=1,keep=0.3", on_decision=heard.append)
    plain = {
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "do_sample": False,
        "pad_token_id": 0,
        "use_cache": use_cache,
    }
    with torch.inference_mode():
        model.generate(**ask(model, 0), **plain)
        assert heard == [active_pruning(model).last]
        model.generate(**ask(model, 1), **plain)
    assert heard[1:] == [active_pruning(model).last]
    assert heard[0] is not heard[1]


@on("llava")
def test_a_dialogue_goes_on_in_the_cache(model):
    """Several tokens at once behind a pruned prompt give what they give one by one."""
    inputs = ask(model, 0)
    prune(model, "attention:layer=1,keep=0.3")
    behind = torch.tensor([[20, 31, 42]])
    with torch.inference_mode():
        caches = [DynamicCache(config=model.config) for _ in range(2)]
        for cache in caches:
            model(**inputs, **cache_argument(model, cache))
        together = model(input_ids=behind, **cache_argument(model, caches[0])).logits
        one_by_one = [
            model(input_ids=behind[:, [place]], **cache_argument(model, caches[1])).logits
            for place in range(3)
        ]
    torch.testing.assert_close(together, torch.cat(one_by_one, dim=1), rtol=2e-4, atol=2e-4)
    assert caches[0].get_seq_length(1) == inputs["input_ids"].shape[1] + 3


@on("llava")
@pytest.mark.parametrize("extra", [{}, {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}])
def test_guessed_tokens_leave_the_cache_again(model, extra):
    """Prompt lookup crops the cache when it guesses wrong; the answer is the greedy one."""
    inputs = ask(model, 0)
    prune(model, "attention:layer=1,keep=0.3")
    plain = {
        "max_new_tokens": 10,
        "min_new_tokens": 10,
        "do_sample": False,
        "pad_token_id": 0,
        "suppress_tokens": [3],
    }  # 3 is <image>
    with torch.inference_mode():
        found = model.generate(**inputs, **plain, **extra)
        expected = model.generate(**inputs, **plain, use_cache=False)
    assert torch.equal(found, expected)


def hooks(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@on("llava", "mllama")
def test_one_setting_takes_the_place_of_another_and_leaves_nothing_behind(model):
    before = hooks(model)
    assert describe(model) is None
    prune(model, "grid:layer=0,keep=0.5")
    once = hooks(model)
    assert once > before
    prune(model, "random:layer=0,keep=0.3,seed=4")
    assert hooks(model) == once
    assert describe(model) == "random:layer=0,keep=0.3,seed=4"
    prune(model, "grid:keep=1")
    assert hooks(model) == before, "keeping everything needs no hook"
    assert describe(model) == "grid:layer=0,keep=1"
    prune(model, None)
    assert hooks(model) == before
    assert "get_image_features" not in vars(model.base_model)
    assert active_pruning(model) is None


@on("llava")
def test_a_call_that_fails_is_forgotten(model):
    inputs = ask(model, 0)
    prune(model, "grid:layer=1,keep=0.3")
    expected = logits(model, **inputs)
    with pytest.raises(ValueError, match="features and image tokens do not match"):
        logits(
            model,
            **{
                **inputs,
                "input_ids": inputs["input_ids"][:, :-30],
                "attention_mask": inputs["attention_mask"][:, :-30],
            },
        )
    assert active_pruning(model).call is None
    assert torch.equal(logits(model, **inputs), expected)


def decision(ids, pixels):
    keep = torch.ones(ids.shape, dtype=torch.bool)
    return Decision(Kept.of(keep), (torch.arange(2),), (2,), (ids, pixels))


def test_a_decision_goes_on_behind_its_own_prompt_and_picture_only():
    ids, pixels = torch.tensor([[5, 6, 7]]), torch.rand(1, 3, 2, 2)
    known, longer = decision(ids, pixels), torch.tensor([[5, 6, 7, 8]])
    assert known.goes_on(longer, pixels.clone())
    assert not known.goes_on(ids, pixels), "the prompt itself is read anew"
    assert not known.goes_on(torch.tensor([[5, 9, 7, 8]]), pixels)
    assert not known.goes_on(longer.expand(2, 4), pixels)
    assert not known.goes_on(longer, pixels + 1)
    assert not known.goes_on(longer, pixels[:, :, :1])


def test_a_call_knows_its_padding_and_names_what_stays():
    visual = torch.tensor([[0, 1, 1, 1, 0], [1, 0, 1, 0, 0]]).bool()
    call = Call(
        {"attention_mask": torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])},
        0,
        visual,
        prompt=(torch.zeros(1), torch.zeros(1)),
    )
    assert call.real().tolist() == [[False, True, True, True, True], [True] * 5]
    assert bool(Call({}, 0, visual).real().all())
    assert bool(Call({"attention_mask": torch.zeros(2, 1, 5, 5)}, 0, visual).real().all()), (
        "a mask of 4 dimensions says nothing of padding"
    )
    chosen = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 0, 0, 0]]).bool()
    made = decision_from(call, Kept.of(chosen), visual, chosen)
    assert [stay.tolist() for stay in made.chosen] == [[1, 2], [0]]
    assert made.offered == (3, 2)
