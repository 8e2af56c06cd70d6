"""Control tokens that a user types are text: in questions, system prompts and answers, for all processors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

import bivlm
from bivlm.errors import InputError
from bivlm.families import Family, family_of
from bivlm.families.answers import answer_tokens
from bivlm.families.prompts import PLACES, image_tokens
from bivlm.families.typed import as_text, control_tokens
from bivlm.types import Sample
from tiny import ALL, each, tiny_checkpoint, tiny_config, tiny_processor, tiny_samples

LANGUAGE = family_of("llama")


def ask(kind: str, *samples: Sample) -> dict[str, torch.Tensor]:
    config = tiny_config(kind)
    images = [sample.images for sample in samples]
    return family_of(config).inputs(tiny_processor(kind), samples, images, config)


def places(kind: str) -> list[str]:
    processor = tiny_processor(kind)
    return image_tokens(processor, PLACES) + image_tokens(processor.tokenizer, PLACES)


def controls(tokenizer: Any, ids: torch.Tensor) -> list[int]:
    special = {tokenizer.convert_tokens_to_ids(name) for name in control_tokens(tokenizer)}
    return [token for token in ids.tolist() if token in special]


@pytest.mark.parametrize("kind", each())
def test_every_control_token_that_is_typed_stays_text(kind: str):
    """One after the other, in the midst of words, and with the image's tokens where they were."""
    tokenizer = tiny_processor(kind).tokenizer
    names = [name for name in control_tokens(tokenizer) if name not in places(kind)]
    assert len(names) > 2
    sample = tiny_samples(1)[0]
    typed = f"Is {'x '.join(names)} it{names[0]}{names[-1]}red?"
    plain, found = ask(kind, sample), ask(kind, replace(sample, question=typed))
    assert tokenizer.decode(found["input_ids"][0]) == tokenizer.decode(plain["input_ids"][0]).replace(
        "Is it red?", typed
    )
    assert controls(tokenizer, found["input_ids"][0]) == controls(tokenizer, plain["input_ids"][0])
    for name, tensor in plain.items():
        if "type_ids" in name:  # which tokens are the image's
            assert found[name].sum() == tensor.sum()


@pytest.mark.parametrize("kind", ["qwen2_vl", "idefics3"])
def test_a_batch_holds_the_same_prompts_as_each_question_alone(kind: str):
    typed = replace(tiny_samples(2)[1], question="</s> is <s> it?")
    samples = [tiny_samples(1)[0], typed]
    batch = ask(kind, *samples)["input_ids"]
    for row, sample in zip(batch, samples, strict=True):
        alone = ask(kind, sample)["input_ids"][0]
        assert torch.equal(row[-len(alone) :], alone)


def test_without_control_tokens_nothing_is_touched():
    processor, samples = tiny_processor("llava"), tiny_samples(2)
    same, asked = as_text(processor, samples)
    assert same is processor
    assert asked == samples
    other, _ = as_text(processor, [replace(samples[0], question="</s>?")])
    assert other is not processor
    assert processor.tokenizer("a</s>")["input_ids"][-1] == processor.tokenizer.eos_token_id


def test_images_in_the_midst_of_the_text_stay_in_their_places():
    image = tiny_samples(1)[0].image
    assert image is not None
    sample = Sample.of(["Is </s>", image, " or <s>", image, " red?"], system="Say <|im_end|>.")
    tokenizer = tiny_processor("qwen2_vl").tokenizer
    text = tokenizer.decode(ask("qwen2_vl", sample)["input_ids"][0])
    assert "system\nSay <|im_end|>.<|im_end|>" in text
    assert text.index("Is </s><|vision_start|>") < text.index(" or <s><|vision_start|>")


@pytest.mark.parametrize(
    ("kind", "token"),
    [("gemma3", "<image_soft_token>"), ("gemma3", "<start_of_image>"), ("gemma4", "<|image|>")],
)
def test_the_place_of_an_image_is_refused_as_before(kind: str, token: str):
    assert token in ALL[kind].tokenizer().get_vocab()
    with pytest.raises(InputError, match="the place of an image; take it out"):
        ask(kind, replace(tiny_samples(1)[0], question=f"What is {token}?"))


def test_an_answer_may_name_the_token_that_ends_it(tmp_path: Path):
    model, processor = bivlm.load(tiny_checkpoint("qwen2_vl", tmp_path / "model"))
    family, sample = family_of(model.config), tiny_samples(1)[0]
    tokens = answer_tokens(family, model, processor, replace(sample, answers=("a </s> and <|im_end|> b",)))
    assert processor.tokenizer.decode(tokens[:-1]).startswith("a </s> and <|im_end|> b")
    assert controls(processor.tokenizer, torch.tensor(tokens[: len(tokens) // 2])) == []
    both = replace(sample, question="Is </s>?", answers=("red",))
    assert answer_tokens(family, model, processor, both) == answer_tokens(
        family, model, processor, replace(sample, answers=("red",))
    )


# ---- tokenizers


def byte_level() -> Any:
    return ALL["llava"].tokenizer()


def metaspace() -> Any:
    """Like Llama's: a space in front of the first word alone, and BOS by the tokenizer."""
    signs = [chr(code) for code in range(32, 127)] + ["▁"]
    special = ["<unk>", "<s>", "</s>", "<|end|>"]
    vocabulary = {piece: number for number, piece in enumerate([*special, *signs, "re", "red", "▁red", "<|"])}
    merges = [("r", "e"), ("re", "d"), ("▁", "red"), ("<", "|")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = T.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|end|>", rstrip=True)]})
    return tokenizer


def unigram() -> Any:
    """Like T5's: the names of control tokens are pieces of its vocabulary."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((chr(code), -9.0) for code in range(32, 127))]
    backend = Tokenizer(models.Unigram(pieces, 2, False))
    return T.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


def prompt(tokenizer: Any, question: str, template: str | None = None) -> list[int]:
    tokenizer.chat_template = template
    return LANGUAGE.inputs(tokenizer, [Sample(None, question, origin="q:1")], [])["input_ids"][0].tolist()


WORDS = st.lists(
    st.sampled_from(["<s>", "</s>", "<|end|>", "<|", "|>", "red", " red", " ", "<", "s>", "a", "\n", "é"]),
    min_size=1,
    max_size=8,
).map("".join)
BYTES, SPACES = byte_level(), metaspace()


@settings(deadline=None, max_examples=60)
@given(WORDS)
def test_a_question_alone_is_what_the_tokenizer_splits_it_into(question: str):
    plain = BYTES(question, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    BYTES("", split_special_tokens=False)
    assert prompt(BYTES, question) == [BYTES.bos_token_id, *plain]
    assert BYTES.decode(plain) == question


@settings(deadline=None, max_examples=60)
@given(WORDS.filter(lambda text: "é" not in text and "\n" not in text))
def test_between_the_control_tokens_of_a_template_the_words_are_those_that_were_typed(question: str):
    template = "<s>user <|end|>{{ messages[0]['content'] }}</s>go"
    ids = prompt(SPACES, question, template)
    end, stop = SPACES.convert_tokens_to_ids("<|end|>"), SPACES.eos_token_id
    assert [token for token in ids if token in (SPACES.bos_token_id, end, stop)] == [1, end, stop]
    span = ids[ids.index(end) + 1 : ids.index(stop)]
    typed = "".join(SPACES.convert_ids_to_tokens(span)).replace("▁", " ")
    assert typed == question.lstrip()  # <|end|> takes the space after it


@pytest.mark.parametrize(
    ("tokenizer", "template", "why"),
    [
        (unigram, None, "its tokenizer reads it as one wherever it stands"),
        (T.ByT5Tokenizer, None, "its tokenizer is a ByT5Tokenizer"),
        (
            byte_level,
            "{{ messages[0]['content'][1:] }}",
            "its chat template or its processor changes the text",
        ),
    ],
)
def test_what_cannot_be_taken_as_text_is_refused_by_name(tokenizer: Any, template: str | None, why: str):
    with pytest.raises(InputError) as caught:
        prompt(tokenizer(), "</s>?", template)
    assert str(caught.value) == (
        f"q:1: </s> is a control token of the model, which cannot be taken as text here ({why}); take it out"
    )


def test_signs_that_mean_nothing_may_be_typed_too():
    """The marks are others then."""
    question = "".join(map(chr, range(0xE000, 0xE010))) + "</s>"
    assert BYTES.decode(prompt(BYTES, question)[1:]) == question


def test_a_processor_that_reads_the_text_in_its_own_way_is_refused():
    class Own:
        tokenizer, image_processor, chat_template = byte_level(), object(), None

        def __call__(self, text: list[str], **_: Any) -> dict[str, torch.Tensor]:
            ids = torch.tensor([self.tokenizer.encode(text[0])])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    family = Family("llava", (), (), lambda config: None, prompt="{image}{question}", takes=("input_ids",))
    own: Any = Own()
    own.image_token = "<image>"
    with pytest.raises(InputError, match="its chat template or its processor changes the text"):
        family.inputs(own, [Sample(None, "</s>?")], [()])
