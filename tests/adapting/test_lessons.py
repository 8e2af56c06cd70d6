"""Lessons: what an answer looks like in tokens, and files that count only while they are whole."""

from __future__ import annotations

import pytest
import torch

import bivlm
from bivlm.adapting.lessons import Lesson, LessonFolder, given_tokens
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.answer import generate, inference, prepare
from bivlm.families import family_of
from bivlm.zoo import embedded_model


def test_a_given_answer_has_the_tokens_that_the_model_itself_would_choose():
    """Where the embedded model is right, its greedy answer and the given one are the same tokens."""
    model, processor = bivlm.load(embedded_model())
    family, same = family_of(model.config), 0
    for sample in read_samples("easy-vqa", split="test", limit=6, seed=0):
        with inference(model):
            answers = generate(model, processor, family, prepare(model, processor, family, [sample]), 4)
        same += (
            answers.tokens[answers.mask].tolist()
            == given_tokens(model, processor, family, sample)[0].tolist()
        )
    assert same >= 5


def test_the_most_frequent_answer_is_learned(base):
    model, tokenizer = bivlm.load(base)
    sample = bivlm.Sample(None, "What?", ("red", "blue", "blue"))
    tokens = given_tokens(model, tokenizer, family_of(model.config), sample)[0].tolist()
    assert tokenizer.decode(tokens[:-1]) == " blue"
    assert tokens[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_lesson_counts_as_not_made(damage, tmp_path):
    lessons = LessonFolder(tmp_path)
    lesson = Lesson({"input_ids": torch.tensor([[1, 2]])}, torch.tensor([[3]]), torch.ones(1, 5))
    lessons.write(7, lesson)
    assert lessons.has(7)
    assert torch.equal(lessons.read(7).inputs["input_ids"], lesson.inputs["input_ids"])
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:50])
    if damage == "gone":
        path.unlink()
    assert not lessons.has(7)
    with pytest.raises(InputError, match="lacks the lesson 7"):
        lessons.read(7)
