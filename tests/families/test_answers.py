"""Given answers as they follow a prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import bivlm
from bivlm.data.samples import read_samples
from bivlm.eval.answer import generate, inference, prepare
from bivlm.families import family_of
from bivlm.families.answers import answer_tokens, end_tokens
from bivlm.types import Sample
from bivlm.zoo import embedded_model
from tiny import each, tiny_checkpoint, tiny_samples
from tiny.language import tiny_language_model

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}{% else %}{%"
    " for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<image>{% endif %}{%"
    " endfor %}{% endif %}|{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("kind", each())
def test_an_answer_follows_its_prompt_and_is_ended(kind: str, tmp_path: Path) -> None:
    model, processor = bivlm.load(tiny_checkpoint(kind, tmp_path / "model"))
    family, sample = family_of(model.config), replace(tiny_samples(1)[0], answers=("a cat", "ignored"))
    tokens = answer_tokens(family, model, processor, sample)
    ends = end_tokens(model, processor)
    assert "a cat" in processor.tokenizer.decode(tokens)
    assert tokens[-1] in ends
    assert not set(tokens[:-1]) & set(ends)
    image = family.image_token_id(model.config)
    assert image is None or image not in tokens


def test_the_chat_template_says_how_an_answer_looks(tmp_path: Path) -> None:
    folder = tiny_language_model("llama", tmp_path / "model")
    model, tokenizer = bivlm.load(folder)
    family = family_of(model.config)
    tokenizer.chat_template = CHAT
    tokens = answer_tokens(family, model, tokenizer, Sample(None, "why?", ("so",)))
    assert tokenizer.decode(tokens[:-1]).strip() == "so|"
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # shows no answer
    tokens = answer_tokens(family, model, tokenizer, Sample(None, "why?", ("so",)))
    assert tokenizer.decode(tokens[:-1]).strip() == "so"
    tokenizer.chat_template = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}?"
    tokens = answer_tokens(family, model, tokenizer, Sample(None, "why?", ("so",)))
    assert tokenizer.decode(tokens[:-1]).strip() == "so"


def test_a_given_answer_has_the_tokens_that_the_model_itself_would_choose():
    """Where the embedded model is right, its greedy answer and the given one are the same tokens."""
    model, processor = bivlm.load(embedded_model())
    family, same = family_of(model.config), 0
    for sample in read_samples("easy-vqa", split="test", limit=6, seed=0):
        with inference(model):
            answers = generate(model, processor, family, prepare(model, processor, family, [sample]), 4)
        same += answers.tokens[answers.mask].tolist() == answer_tokens(family, model, processor, sample)
    assert same >= 5


def test_the_most_frequent_answer_is_taken(tmp_path):
    model, tokenizer = bivlm.load(tiny_language_model("llama", tmp_path / "model"))
    sample = bivlm.Sample(None, "What?", ("red", "blue", "blue"))
    tokens = answer_tokens(family_of(model.config), model, tokenizer, sample)
    assert tokenizer.decode(tokens[:-1]) == " blue"
    assert tokens[-1] == tokenizer.eos_token_id
