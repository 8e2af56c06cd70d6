"""What every pruner on every family must keep: the budget, the text, the identity at keep = 1, the logits of
a model that masks the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bivlm.pruning
from bivlm.errors import InputError
from bivlm.eval.answer import generate, inference
from bivlm.families import family_of
from bivlm.pruning import PRUNERS, tokens_kept
from bivlm.pruning.apply import active_pruning, describe, prune
from bivlm.pruning.dropping.cache import cache_bytes
from pruning_oracle import hidden_tokens
from tiny import KINDS, tiny_model, tiny_processor, tiny_samples

NOT_PRUNERS = {
    "__init__",
    "apply",
    "base",
    "cache",
    "choose",
    "cross",
    "geometry",
    "kept",
    "language",
    "received",
    "settings",
    "state",
    "tower",
}
IN_PROMPT = tuple(kind for kind in KINDS if kind != "mllama")
WITH_TOWER = ("llava", "llava_siglip", "qwen2_vl", "qwen2_5_vl", "idefics3", "smolvlm")
BATCHES = ((0,), (0, 1, 2))
TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}


class Member:
    def __init__(self, kind: str) -> None:
        self.kind, self.model, self.processor = kind, tiny_model(kind), tiny_processor(kind)
        self.family = family_of(self.model.config)

    def ask(self, numbers: tuple[int, ...]) -> dict[str, Tensor]:
        samples = [tiny_samples(3)[number] for number in numbers]
        return self.family.inputs(
            self.processor, samples, [sample.image for sample in samples], self.model.config
        )

    @torch.inference_mode()
    def logits(self, inputs: dict[str, Tensor], **more: Any) -> Tensor:
        return self.model(**{"use_cache": False, **inputs, **more}).logits

    def answer(self, inputs: dict[str, Tensor], **more: Any) -> Tensor:
        plain = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **more}
        with torch.inference_mode():
            return self.model.generate(**inputs, **plain)[:, inputs["input_ids"].shape[1] :]

    def visual(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.family.visual_mask(self.model.config, inputs["input_ids"])

    def stack(self, part: str) -> list[Any]:
        return list(
            self.model.get_submodule([stack for stack in self.family.stacks if stack.part == part][-1].path)
        )

    def decision(self) -> Any:
        active = active_pruning(self.model)
        assert active is not None
        assert active.last is not None
        return active.last

    def hidden_in_prompt(self, inputs: dict[str, Tensor]) -> Tensor:
        """Where the last decision dropped an image token, from its list of those that stay."""
        hidden = self.visual(inputs).clone()
        for row, stay in zip(hidden, self.decision().chosen, strict=True):
            row[row.nonzero()[:, 0][stay]] = False
        return hidden


_members: dict[str, Member] = {}


@pytest.fixture
def member(kind: str) -> Iterator[Member]:
    found = _members.setdefault(kind, Member(kind))
    yield found
    prune(found.model, None)


def settings(pruner: str) -> str:
    return {"attention": ",attending=last", "joined": ",share=0.4"}.get(pruner, "")


def test_every_file_is_in_the_table():
    files = {path.stem for path in Path(bivlm.pruning.__file__).parent.glob("*.py")} - NOT_PRUNERS
    assert files == set(PRUNERS)
    assert all(PRUNERS[name].name == name for name in PRUNERS)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_keeping_everything_changes_nothing(member, pruner):
    inputs = member.ask((0, 1))
    expected = member.logits(inputs)
    prune(member.model, f"{pruner}:layer=1,keep=1")
    assert torch.equal(member.logits(inputs), expected)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.3, 0.01])
def test_the_budget_is_kept(member, pruner, keep):
    inputs = member.ask((0, 1, 2))
    prune(member.model, f"{pruner}:layer=1,keep={keep}{settings(pruner)}")
    member.logits(inputs)
    decision = member.decision()
    for stay, offered in zip(decision.chosen, decision.offered, strict=True):
        assert len(stay) == tokens_kept(offered, keep)
        assert bool((stay.diff() > 0).all())
        assert int(stay[0]) >= 0
        assert int(stay[-1]) < offered
    if member.kind != "mllama":
        assert list(decision.offered) == member.visual(inputs).sum(1).tolist()
        text = inputs["attention_mask"].bool() & ~member.visual(inputs)
        going = torch.zeros_like(text)
        for row, index, real in zip(
            going,
            decision.kept.index,
            decision.kept.real if decision.kept.real is not None else [slice(None)] * 3,
            strict=True,
        ):
            row[index[real]] = True
        assert bool((going | ~text).all()), "a text token was dropped"


@pytest.mark.parametrize("numbers", BATCHES)
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("kind", IN_PROMPT)
def test_logits_are_those_of_a_model_that_masks_what_was_dropped(member, pruner, layer, numbers):
    inputs = member.ask(numbers)
    prune(member.model, f"{pruner}:layer={layer},keep=0.3{settings(pruner)}")
    found = member.logits(inputs)
    hidden = member.hidden_in_prompt(inputs)
    kept = member.decision().kept
    prune(member.model, None)
    with hidden_tokens(member.model, dict.fromkeys(member.stack("language")[layer:], hidden)):
        expected = member.logits(inputs)
    real = torch.ones_like(kept.index, dtype=torch.bool) if kept.real is None else kept.real
    for row in range(len(numbers)):
        torch.testing.assert_close(
            found[row][real[row]], expected[row][kept.index[row][real[row]]], **TOLERANCE
        )
    assert hidden.any()


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
    inputs = member.ask(numbers)
    prune(member.model, f"{pruner}:site={site},keep=0.3")
    found = member.logits(inputs)
    decision = member.decision()
    tiles = inputs["cross_attention_mask"].bool().any(1).flatten(1)
    seen = tiles.repeat_interleave((32 // 8) ** 2 + 1, dim=1)
    assert list(decision.offered) == seen.sum(1).tolist()
    hidden = torch.ones_like(seen)
    for row, (mask, stay) in enumerate(zip(seen, decision.chosen, strict=True)):
        hidden[row, mask.nonzero()[:, 0][stay]] = False
    prune(member.model, None)
    with hidden_tokens(member.model, {member.stack("language")[1]: hidden}):
        expected = member.logits(inputs)
    torch.testing.assert_close(found[:, -4:], expected[:, -4:], **TOLERANCE)


@pytest.mark.parametrize("numbers", BATCHES)
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("kind", WITH_TOWER)
def test_patches_that_leave_the_tower_are_seen_by_nobody(member, pruner, numbers):
    inputs = member.ask(numbers)
    prune(member.model, f"{pruner}:site=vision,layer=1,keep=0.4")
    found = member.logits(inputs)
    hidden = member.hidden_in_prompt(inputs)
    patches = active_pruning(member.model).encoding.patches.kept
    gone = torch.ones(len(patches.index), patches.length, dtype=torch.bool).scatter(1, patches.index, False)
    prune(member.model, None)
    blocks = dict.fromkeys(member.stack("vision")[1:], gone) | dict.fromkeys(member.stack("language"), hidden)
    with hidden_tokens(member.model, blocks):
        expected = member.logits(inputs)
    torch.testing.assert_close(found[:, -4:], expected[:, -4:], **TOLERANCE)
    assert gone.any()
    assert hidden.any()


@pytest.mark.parametrize("spec", ["attention:layer=1,keep=0.3", "diversity:site=input,keep=0.3"])
@pytest.mark.parametrize("numbers", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_the_same_with_and_without_a_cache(member, numbers, spec):
    inputs = member.ask(numbers)
    expected = member.answer(inputs)
    prune(member.model, spec)
    cached = member.answer(inputs)
    assert torch.equal(cached, member.answer(inputs, use_cache=False))
    prune(member.model, None)
    assert torch.equal(member.answer(inputs), expected), (
        "taking the pruning away must leave the model as it was"
    )


@pytest.mark.parametrize("kind", WITH_TOWER)
def test_answers_after_dropping_in_the_tower_need_no_cache_either(member):
    inputs = member.ask((0, 1))
    prune(member.model, "diversity:site=vision,layer=1,keep=0.4")
    assert torch.equal(member.answer(inputs), member.answer(inputs, use_cache=False))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_computes_what_its_prompts_compute_alone(member):
    prune(member.model, "joined:layer=1,keep=0.3")
    together = member.answer(member.ask((0, 1, 2)))
    alone = [member.answer(member.ask((number,))) for number in range(3)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_is_smaller(member):
    inputs = member.ask((0,))
    with torch.inference_mode():
        whole = member.model(**inputs, use_cache=True).past_key_values
        prune(member.model, "grid:layer=1,keep=0.3")
        cut = member.model(**inputs, use_cache=True).past_key_values
    assert cache_bytes(cut) < cache_bytes(whole)
    if member.kind != "mllama":
        dropped = member.visual(inputs).sum().item() - len(member.decision().chosen[0])
        lengths = [layer.keys.shape[-2] for layer in cut.layers]
        assert lengths == [inputs["input_ids"].shape[1]] + [inputs["input_ids"].shape[1] - dropped] * 2
        assert cut.get_seq_length() == cut.get_seq_length(2) == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "idefics3"])
def test_padding_on_the_right(member):
    """A prompt that is padded behind computes, at its last real token, what it computes alone."""
    prune(member.model, "attention:layer=1,keep=0.3,attending=last")
    inputs = member.ask((0,))
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
    torch.testing.assert_close(found[0, -1], alone, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
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
    inputs = member.ask((1,))
    prune(member.model, "attention:layer=1,keep=0.5,tokens=text")
    found = member.logits(inputs)
    text = int((inputs["attention_mask"].bool() & ~member.visual(inputs)).sum()) - 1
    assert member.decision().offered == (text,)
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
    (stay,) = member.decision().chosen
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


@pytest.mark.parametrize("kind", ["llava"])
def test_a_static_cache_is_refused(member):
    prune(member.model, "grid:layer=1,keep=0.3")
    with pytest.raises(InputError, match="dynamic cache"):
        member.answer(member.ask((0,)), cache_implementation="static")


@pytest.mark.parametrize("kind", ["llava_siglip"])
def test_the_decision_belongs_to_its_image(member):
    """The same words about another image are decided anew; the package's own greedy decoding works as
    well.
    """
    first, second = member.ask((0,)), member.ask((1,))
    second["input_ids"] = first["input_ids"]
    second["attention_mask"] = first["attention_mask"]
    prune(member.model, "diversity:layer=1,keep=0.2")
    with inference(member.model):
        generate(member.model, member.processor, member.family, first, 3)
        one = member.decision().chosen[0]
        generate(member.model, member.processor, member.family, second, 3)
    assert not torch.equal(one, member.decision().chosen[0])


@pytest.mark.parametrize("kind", ["llava_siglip", "qwen2_5_vl"])
def test_beam_search(member):
    """`generate` copies the encoded images for its beams: the language model's own choice still works, the
    tower's is refused.
    """
    inputs = member.ask((0,))
    prune(member.model, "attention:layer=1,keep=0.3")
    beams = member.answer(inputs, num_beams=2)
    assert member.decision().kept.index.shape[0] == 2
    assert torch.equal(beams, member.answer(inputs, num_beams=2, use_cache=False))
    prune(member.model, "grid:site=vision,layer=1,keep=0.3")
    with pytest.raises(InputError, match="num_beams=1"):
        member.answer(inputs, num_beams=2)
