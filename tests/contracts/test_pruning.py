"""Every pruner keeps the contract (bivlm.contracts) on every family; and what pruning does to answers,
caches, batches and beams, and what it refuses.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import bivlm.pruning
from bivlm.contracts import Member, PrunerContract
from bivlm.contracts.hiding import hidden_tokens
from bivlm.contracts.pruner import BATCHES, TOLERANCE, decision_of
from bivlm.errors import InputError
from bivlm.eval.answer import generate, inference
from bivlm.pruning import PRUNERS, tokens_kept
from bivlm.pruning.apply import describe, prune
from bivlm.pruning.attention import AttentionPruner
from bivlm.pruning.diversity import DiversityPruner
from bivlm.pruning.dropping.cache import cache_argument, cache_bytes
from bivlm.pruning.grid import GridPruner
from bivlm.pruning.joined import JoinedPruner
from bivlm.pruning.random import RandomPruner
from tiny import MEMBERS, each, tiny_samples

BY_NAME = {member.name: member for member in MEMBERS}
DROPPING = [member.name for member in MEMBERS if member.drops]
WITH_TOWER = [name for name in DROPPING if BY_NAME[name].family.patch_tokens is not None]


class TestPruners(PrunerContract):
    members = MEMBERS
    examples = [
        AttentionPruner(),
        AttentionPruner(attending="last"),
        DiversityPruner(),
        GridPruner(),
        JoinedPruner(),
        JoinedPruner(share=0.4),
        RandomPruner(),
    ]


@pytest.fixture
def member(kind: str) -> Iterator[Member]:
    found = BY_NAME[kind]
    yield found
    prune(found.model, None)


def answer(member: Member, inputs: dict[str, Tensor], **more: Any) -> Tensor:
    """Five tokens of text: a model that counts its image tokens refuses more of them."""
    image = member.family.image_token_id(member.config)
    text = {} if image is None else {"suppress_tokens": [image]}
    plain = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **text, **more}
    with torch.inference_mode():
        return member.model.generate(**inputs, **plain)[:, inputs["input_ids"].shape[1] :]


def test_every_pruner_is_in_the_table_and_tested():
    for module in pkgutil.iter_modules(bivlm.pruning.__path__):
        importlib.import_module(f"bivlm.pruning.{module.name}")
    own = {kind for kind in PRUNERS.values() if kind.__module__.startswith("bivlm.pruning.")}
    assert own == set(PRUNERS.values()) == {type(example) for example in TestPruners.examples}
    assert all(PRUNERS[name].name == name for name in PRUNERS)


@pytest.mark.parametrize("numbers", BATCHES)
@pytest.mark.parametrize(
    ("site", "pruner"),
    [
        (site, pruner)
        for site in ("language", "input")
        for pruner in PRUNERS
        if site == "language" or PRUNERS[pruner]().queries is None
    ],
)
@pytest.mark.parametrize("kind", ["mllama"])
def test_cross_attention_sees_what_was_kept_and_nothing_else(member, pruner, site, numbers):
    inputs = member.ask(*numbers)
    prune(member.model, f"{pruner}:site={site},keep=0.3")
    found = member.logits(inputs)
    decision = decision_of(member)
    tiles = inputs["cross_attention_mask"].bool().any(1).flatten(1)
    seen = tiles.repeat_interleave((32 // 8) ** 2 + 1, dim=1)
    assert list(decision.offered) == seen.sum(1).tolist()
    hidden = torch.ones_like(seen)
    for row, (mask, stay) in enumerate(zip(seen, decision.chosen, strict=True)):
        hidden[row, mask.nonzero()[:, 0][stay]] = False
    prune(member.model, None)
    with hidden_tokens(member.model, {member.last_stack("language")[1]: hidden}):
        expected = member.logits(inputs)
    torch.testing.assert_close(found[:, -4:], expected[:, -4:], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("spec", ["attention:layer=1,keep=0.3", "diversity:site=input,keep=0.3"])
@pytest.mark.parametrize("numbers", BATCHES)
@pytest.mark.parametrize("kind", each(DROPPING))
def test_the_answer_is_the_same_with_and_without_a_cache(member, numbers, spec):
    inputs = member.ask(*numbers)
    expected = answer(member, inputs)
    prune(member.model, spec)
    cached = answer(member, inputs)
    assert torch.equal(cached, answer(member, inputs, use_cache=False))
    prune(member.model, None)
    assert torch.equal(answer(member, inputs), expected), (
        "taking the pruning away must leave the model as it was"
    )


@pytest.mark.parametrize("kind", each(WITH_TOWER))
def test_answers_after_dropping_in_the_tower_need_no_cache_either(member):
    inputs = member.ask(0, 1)
    prune(member.model, "diversity:site=vision,layer=1,keep=0.4")
    assert torch.equal(answer(member, inputs), answer(member, inputs, use_cache=False))


@pytest.mark.parametrize("kind", each(DROPPING))
def test_a_batch_computes_what_its_prompts_compute_alone(member):
    prune(member.model, "joined:layer=1,keep=0.3")
    together = answer(member, member.ask(0, 1, 2))
    alone = [answer(member, member.ask(number)) for number in range(3)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("kind", each(DROPPING))
def test_the_cache_is_smaller(member):
    inputs, whole, cut = member.ask(0), DynamicCache(), DynamicCache()
    with torch.inference_mode():
        member.model(**inputs, **cache_argument(member.model, whole), use_cache=True)
        prune(member.model, "grid:layer=1,keep=0.3")
        member.model(**inputs, **cache_argument(member.model, cut), use_cache=True)
    assert cache_bytes(cut) < cache_bytes(whole)
    if not member.crosses:
        dropped = member.visual(inputs).sum().item() - len(decision_of(member).chosen[0])
        lengths = [layer.keys.shape[-2] for layer in cut.layers]
        assert lengths == [inputs["input_ids"].shape[1]] + [inputs["input_ids"].shape[1] - dropped] * 2
        assert cut.get_seq_length() == cut.get_seq_length(2) == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "idefics3"])
def test_padding_on_the_right(member):
    """A prompt that is padded behind computes, at its last real token, what it computes alone."""
    prune(member.model, "attention:layer=1,keep=0.3,attending=last")
    inputs = member.ask(0)
    alone = member.logits(inputs)[0, -1]
    prune(member.model, "attention:layer=1,keep=0.3,attending=last")
    padded = {
        **inputs,
        **{
            name: torch.nn.functional.pad(inputs[name], (0, 3))
            for name in ("input_ids", "attention_mask", "mm_token_type_ids")
            if name in inputs
        },
    }
    found = member.logits(padded)
    torch.testing.assert_close(found[0, -1], alone, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", each(DROPPING))
def test_a_prompt_without_an_image_is_left_alone_and_says_so_once(member, caplog):
    tokenizer = member.processor.tokenizer
    inputs = dict(tokenizer("Is it red?", return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    expected = member.logits(inputs)
    prune(member.model, "grid:layer=1,keep=0.3")
    assert torch.equal(member.logits(inputs), expected)
    assert torch.equal(member.logits(inputs), expected)
    assert [record.message for record in caplog.records if "nothing is pruned" in record.message] == [
        "the prompt holds no image: nothing is pruned"
    ]


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_text_tokens_as_a_probe(member):
    inputs = member.ask(1)
    prune(member.model, "attention:layer=1,keep=0.5,tokens=text")
    found = member.logits(inputs)
    text = int((inputs["attention_mask"].bool() & ~member.visual(inputs)).sum()) - 1
    assert decision_of(member).offered == (text,)
    assert found.shape[1] == inputs["input_ids"].shape[1] - (text - tokens_kept(text, 0.5))


@pytest.mark.parametrize("kind", ["llava"])
def test_two_images_in_a_prompt_share_the_budget(member):
    image = tiny_samples(1)[0].image
    inputs = member.processor(
        text=["<image>\nand <image>\nIs it red?"], images=[[image, image]], return_tensors="pt"
    )
    inputs = {
        name: tensor
        for name, tensor in inputs.items()
        if name in ("input_ids", "attention_mask", "pixel_values")
    }
    prune(member.model, "grid:layer=0,keep=0.25")
    member.logits(inputs)
    (stay,) = decision_of(member).chosen
    assert len(stay) == 8
    assert int((stay < 16).sum()) == 4


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("llava", "attention:layer=3,keep=0.5", "blocks 0 to 2"),
        ("llava", "attention:layer=3,keep=0.5,site=vision", "blocks 0 to 2"),
        ("llava", "grid:layer=2,keep=0.5,site=vision", "output of block 1"),
        ("mllama", "attention:layer=2,keep=0.5", "blocks 1 only"),
        ("mllama", "attention:layer=0,keep=0.5,tokens=text", "no visual tokens in its prompt"),
        ("mllama", "grid:site=vision,keep=0.5", "not offered"),
        ("mllama", "attention:site=input,keep=0.5", "not offered"),
        ("llava_next", "attention:site=input,keep=0.5", "not offered"),
    ],
)
def test_what_cannot_be_done_is_refused(member, spec, message):
    prune(member.model, "grid:layer=1,keep=0.5")
    with pytest.raises(InputError, match=message):
        prune(member.model, spec)
    assert describe(member.model) == "grid:layer=1,keep=0.5", "what was set before stays"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gemma4_e2b", "last 2 blocks read the keys and values of earlier ones"),
        pytest.param(
            "qwen3_5", "no keys and values that could be dropped.*linear_att", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize("site", ["language", "input"])
def test_a_language_model_that_cannot_drop_tokens_says_why(member, message, site):
    with pytest.raises(InputError, match=message):
        prune(member.model, f"grid:layer=0,keep=0.5,site={site}")
    assert describe(member.model) is None


@pytest.mark.parametrize("kind", ["llava"])
def test_a_static_cache_is_refused(member):
    prune(member.model, "grid:layer=1,keep=0.3")
    with pytest.raises(InputError, match="dynamic cache"):
        answer(member, member.ask(0), cache_implementation="static")


@pytest.mark.parametrize("kind", ["llava_siglip"])
def test_the_decision_belongs_to_its_image(member):
    """The same words about another image are decided anew; the package's own greedy decoding works as
    well.
    """
    first, second = member.ask(0), member.ask(1)
    second["input_ids"] = first["input_ids"]
    second["attention_mask"] = first["attention_mask"]
    prune(member.model, "diversity:layer=1,keep=0.2")
    with inference(member.model):
        generate(member.model, member.processor, member.family, first, 3)
        one = decision_of(member).chosen[0]
        generate(member.model, member.processor, member.family, second, 3)
    assert not torch.equal(one, decision_of(member).chosen[0])


@pytest.mark.parametrize("kind", ["llava_siglip", "qwen2_5_vl"])
def test_beam_search(member):
    """`generate` copies the encoded images for its beams: the language model's own choice still works, the
    tower's is refused.
    """
    inputs = member.ask(0)
    prune(member.model, "attention:layer=1,keep=0.3")
    beams = answer(member, inputs, num_beams=2)
    assert decision_of(member).kept.index.shape[0] == 2
    assert torch.equal(beams, answer(member, inputs, num_beams=2, use_cache=False))
    prune(member.model, "grid:site=vision,layer=1,keep=0.3")
    with pytest.raises(InputError, match="num_beams=1"):
        answer(member, inputs, num_beams=2)
