"""Greedy answers must equal step-by-step decoding without a cache, in any batch, with any settings of the
checkpoint.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from bivlm.errors import InputError
from bivlm.eval.answer import Answers, answer, answer_batch, end_tokens, generate, inference, prepare, texts
from bivlm.families import family_of
from bivlm.pruning.apply import prune
from bivlm.types import Sample, Video
from tiny import each, tiny_model, tiny_processor, tiny_samples
from videos import folder_of, frames

TOKENS = 5


@cache
def member(kind: str) -> tuple[Any, Any, Any]:
    """Shared by the tests that leave the model as it is."""
    model = tiny_model(kind)
    return model, tiny_processor(kind), family_of(model.config)


def own(kind: str = "llava") -> tuple[Any, Any, Any]:
    """A model for a test that changes it."""
    model = tiny_model(kind)
    return model, tiny_processor(kind), family_of(model.config)


def step_by_step(model: Any, processor: Any, family: Any, sample: Sample, steps: int) -> list[int]:
    """The oracle: one sample, no cache, no batch; the likeliest token goes behind the sequence, until one
    that ends the answer.
    """
    inputs = family.inputs(processor, [sample], [sample.image], model.config)
    image, tokens = family.image_token_id(model.config), []
    while len(tokens) < steps and model.generation_config.eos_token_id not in tokens:
        given = torch.tensor([tokens], dtype=torch.long)
        with torch.inference_mode():
            logits = model(**family.extend(inputs, given, torch.ones_like(given)), use_cache=False).logits[
                0, -1
            ]
        tokens.append(next(token for token in logits.argsort(descending=True).tolist() if token != image))
    return tokens


@pytest.mark.parametrize("kind", ["qwen2_vl", "llava_onevision"])
def test_a_question_about_a_video_is_answered_as_from_its_frames(kind: str, tmp_path: Path):
    """By its folder, by a `Video`, in a batch with another one; no token of an image or video is chosen."""
    model, processor, family = member(kind)
    folder = folder_of(tmp_path / "clip", 6)
    named = answer(model, processor, None, "Is it red?", video=folder, max_frames=3, max_new_tokens=TOKENS)
    chosen = Video(tuple(folder / f"frame{number}.png" for number in (0, 2, 5)), fps=0.8)
    whole = Video(tuple(folder / f"frame{number}.png" for number in range(6)), most=3)
    assert named == answer(model, processor, None, "Is it red?", video=[whole], max_new_tokens=TOKENS)
    assert kind == "qwen2_5_vl" or named == answer(
        model, processor, None, "Is it red?", video=chosen, max_new_tokens=TOKENS
    )
    samples = [Sample(whole, "Is it red?"), Sample(Video(frames(3)), "How many circles are there?")]
    assert answer_batch(model, processor, family, samples, max_new_tokens=TOKENS)[0] == named
    with inference(model):
        answers = generate(model, processor, family, prepare(model, processor, family, samples), TOKENS)
    assert not torch.isin(answers.tokens, torch.tensor(family.visual_tokens(model.config))).any()


def test_an_image_comes_before_a_video():
    model, processor, family = member("qwen2_vl")
    image, video = frames(1, 5)[0], Video(frames(2))
    sample = Sample((image, video), "Which?")
    [expected] = answer_batch(model, processor, family, [sample], max_new_tokens=TOKENS)
    assert answer(model, processor, image, "Which?", video=video, max_new_tokens=TOKENS) == expected


@pytest.mark.parametrize("most", [0, 10_000])
def test_a_number_of_frames_that_makes_no_sense_is_refused(most: int):
    with pytest.raises(InputError, match=f"--max-frames is {most}"):
        answer(*member("qwen2_vl")[:2], None, "Why?", video="clip.mp4", max_frames=most)


def rows(answers: Answers) -> list[list[int]]:
    return [tokens[mask].tolist() for tokens, mask in zip(answers.tokens, answers.mask, strict=True)]


def answers_of(
    model: Any, processor: Any, family: Any, samples: list[Sample], steps: int = TOKENS
) -> Answers:
    with inference(model):
        return generate(model, processor, family, prepare(model, processor, family, samples), steps)


@pytest.mark.parametrize("kind", each())
def test_a_batch_is_answered_as_each_sample_alone_step_by_step(kind: str):
    subject, samples = member(kind), tiny_samples(3)
    expected = [step_by_step(*subject, sample, TOKENS) for sample in samples]
    together = answers_of(*subject, samples)
    assert rows(together) == expected
    assert together.non_finite == 0
    assert rows(answers_of(*subject, samples[::-1])) == expected[::-1]
    assert rows(answers_of(*subject, samples[1:2])) == expected[1:2]


@pytest.mark.parametrize("kind", ["llava", "mllama", "qwen2_5_vl"])
def test_texts_are_the_tokens_in_words(kind: str):
    subject, samples = member(kind), tiny_samples(3)
    tokenizer = subject[1].tokenizer
    expected = [
        tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows(answers_of(*subject, samples))
    ]
    assert answer_batch(*subject, samples, max_new_tokens=TOKENS) == expected
    assert len(set(expected)) > 1
    alone = answer(subject[0], subject[1], samples[0].image, samples[0].question, max_new_tokens=TOKENS)
    assert alone == expected[0]


def test_an_image_can_be_named_by_its_path(tmp_path: Path):
    model, processor, _ = member("llava")
    sample, path = tiny_samples(1)[0], tmp_path / "photo.png"
    sample.image.save(path)
    expected = answer(model, processor, sample.image, sample.question, max_new_tokens=TOKENS)
    assert answer(model, processor, path, sample.question, max_new_tokens=TOKENS) == expected
    assert answer(model, processor, str(path), sample.question, max_new_tokens=TOKENS) == expected
    with pytest.raises(InputError, match=r"the image .*no\.png does not exist"):
        answer(model, processor, tmp_path / "no.png", sample.question)


# ---- where an answer ends


def test_an_answer_ends_with_its_end_token_and_padding_does_not_count():
    model, processor, family = own()
    samples = tiny_samples(3)
    free = rows(answers_of(model, processor, family, samples))
    ends = free[0][1]
    model.generation_config.eos_token_id = [ends, 2]
    answers = answers_of(model, processor, family, samples)
    expected = [row[: row.index(ends) + 1] if ends in row else row for row in free]
    assert rows(answers) == expected
    assert len(expected[0]) == 2
    words = texts(model, processor, answers)
    assert words == [
        processor.tokenizer.decode([token for token in row if token != ends]).strip() for row in expected
    ]


def test_an_answer_that_ends_at_once_is_empty():
    model, processor, family = own()
    samples = tiny_samples(1)
    first = rows(answers_of(model, processor, family, samples))[0][0]
    model.generation_config.eos_token_id = first
    assert rows(answers_of(model, processor, family, samples)) == [[first]]
    assert answer_batch(model, processor, family, samples, max_new_tokens=TOKENS) == [""]


def test_end_tokens_come_from_the_settings_then_the_config_then_the_tokenizer():
    model, processor, _ = own()
    model.generation_config.eos_token_id = [7, 2]
    assert end_tokens(model, processor) == [7, 2]
    model.generation_config.eos_token_id = None
    model.config.text_config.eos_token_id = 9
    assert end_tokens(model, processor) == [9]
    model.config.text_config.eos_token_id = None
    assert end_tokens(model, processor) == [processor.tokenizer.eos_token_id]
    processor.tokenizer.eos_token = None
    assert end_tokens(model, processor) == []


def test_without_any_end_and_padding_token_the_length_ends_it():
    model, processor, family = own()
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id = None
    processor.tokenizer.eos_token = processor.tokenizer.pad_token = None
    assert [len(row) for row in rows(answers_of(model, processor, family, tiny_samples(1)))] == [TOKENS]


@pytest.mark.parametrize("tokens", [0, -1])
def test_an_answer_of_no_tokens_is_refused(tokens: int):
    with pytest.raises(InputError, match=f"max_new_tokens is {tokens}"):
        answer_batch(*member("llava"), tiny_samples(1), max_new_tokens=tokens)


# ---- the checkpoint's settings


SETTINGS = (
    {"do_sample": True, "temperature": 0.1, "top_k": 5, "top_p": 0.5},
    {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"max_length": 3, "min_new_tokens": 4},
    {"suppress_tokens": list(range(3, 200)), "forced_eos_token_id": 2},
    {"bad_words_ids": [[token] for token in range(3, 200)]},
    {"cache_implementation": "static"},
)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: next(iter(settings)))
def test_the_checkpoint_s_generation_settings_do_not_matter(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    model, processor, family = own()
    samples = tiny_samples(3)
    expected = answers_of(model, processor, family, samples)
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, **settings)
    before = model.generation_config, model.generation_config.to_dict()
    transformers.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            found = answers_of(model, processor, family, samples)
    finally:
        transformers.logging.disable_propagation()
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.mask, expected.mask)
    assert not caplog.records
    assert model.generation_config is before[0]
    assert model.generation_config.to_dict() == before[1]


def test_the_settings_come_back_when_generation_is_broken_off():
    model, processor, family = own()
    settings = model.generation_config

    def interrupt(_: Tensor) -> None:
        raise KeyboardInterrupt

    _change_logits(model, interrupt)
    with pytest.raises(KeyboardInterrupt):
        answer_batch(model, processor, family, tiny_samples(1), max_new_tokens=2)
    assert model.generation_config is settings


# ---- broken and odd models


def _change_logits(model: Any, change: Any) -> None:
    def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        change(output)
        return output

    model.lm_head.register_forward_hook(hook)


def test_the_image_token_is_never_an_answer():
    model, processor, family = own()
    image = family.image_token_id(model.config)
    _change_logits(model, lambda logits: logits[..., image].add_(1e4))
    assert not any(image in row for row in rows(answers_of(model, processor, family, tiny_samples(3))))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_answer_tokens_from_broken_logits_are_counted(broken: float):
    model, processor, family = own()
    _change_logits(model, lambda logits: logits[..., 5].fill_(broken))
    answers = answers_of(model, processor, family, tiny_samples(3))
    assert answers.non_finite == int(answers.mask.sum()) > 0


def test_broken_logits_behind_the_end_of_an_answer_do_not_count():
    model, processor, family = own()

    def end_the_first(logits: Tensor) -> None:
        logits[..., 5] = -torch.inf
        logits[0, ..., 2] = 1e4

    _change_logits(model, end_the_first)
    answers = answers_of(model, processor, family, tiny_samples(3))
    assert rows(answers)[0] == [2]
    assert answers.non_finite == sum(map(len, rows(answers))) == 1 + 2 * TOKENS


# ---- the model stays as it was


def _fail_inside(model: Any) -> None:
    with inference(model):
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
        _ = 1 / 0


def test_every_module_keeps_its_mode():
    model, processor, family = own()
    model.train()
    model.lm_head.eval()
    before = [module.training for module in model.modules()]
    expected = rows(answers_of(*member("llava"), tiny_samples(2)))
    assert rows(answers_of(model, processor, family, tiny_samples(2))) == expected
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ZeroDivisionError):
        _fail_inside(model)
    assert [module.training for module in model.modules()] == before
    assert not torch.is_inference_mode_enabled()


# ---- threads


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
def test_threads_get_their_answers_and_leave_the_model_as_it_was(kind: str):
    """Qwen keeps the offsets of the prompt that it read last on the model."""
    model, processor, family = own(kind)
    model.train()
    prune(model, "grid:layer=1,keep=0.5")
    samples = tiny_samples(4)
    expected = [
        [answer_batch(model, processor, family, [sample], max_new_tokens=steps)[0] for steps in (1, TOKENS)]
        for sample in samples
    ]
    assert len({words for pair in expected for words in pair}) > 3
    modes, settings = [module.training for module in model.modules()], model.generation_config
    kept = settings.to_dict()

    def ask(number: int) -> list[list[str]]:
        image, question = samples[number].image, samples[number].question
        return [
            [answer(model, processor, image, question, max_new_tokens=steps) for steps in (1, TOKENS)]
            for _ in range(3)
        ]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(4)))
    assert found == [[pair] * 3 for pair in expected]
    assert model.generation_config is settings
    assert settings.to_dict() == kept
    assert [module.training for module in model.modules()] == modes


def test_asking_changes_nothing_on_the_model():
    model, processor, family = own()
    before = dict(vars(model))
    seen: list[Any] = []
    _change_logits(model, lambda logits: seen.append(model.generation_config))
    before["_modules"] = model._modules
    answer_batch(model, processor, family, tiny_samples(1), max_new_tokens=2)
    assert seen
    assert all(settings is before["generation_config"] for settings in seen)
    assert vars(model) == before


def test_an_evaluation_may_ask_the_model_while_it_is_asked():
    """Within one thread, what hears of the progress may ask too."""
    model, processor, family = own()
    samples = tiny_samples(2)
    with inference(model):
        assert len(answer_batch(model, processor, family, samples, max_new_tokens=2)) == 2
        assert torch.is_inference_mode_enabled()


# ---- questions that cannot be asked


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "the question is empty"),
        (" \n\t", "the question is empty"),
        ("half \ud83d", r"the question holds half a character \(\\ud83d\)"),
        (None, "the question must be a text, and is null"),
        (["What?"], "the question must be a text, and is a list"),
    ],
    ids=str,
)
def test_a_question_without_words_is_refused(question: Any, message: str):
    model, processor, family = member("llava")
    with pytest.raises(InputError, match=f"^{message}"):
        answer(model, processor, tiny_samples(1)[0].image, question)
    sample = Sample(tiny_samples(1)[0].image, question, origin="set:3")
    with pytest.raises(InputError, match=f"^set:3: {message}"):
        answer_batch(model, processor, family, [sample], max_new_tokens=1)


def test_an_image_given_as_a_url_is_not_fetched():
    model, processor, _ = member("llava")
    with pytest.raises(InputError, match=r"the image is a URL, https://example\.org/a\.png;"):
        answer(model, processor, "https://example.org/a.png", "What?")


def test_a_question_that_is_too_long_is_named():
    samples = [Sample(tiny_samples(1)[0].image, "why " * 2500, origin="vqa.jsonl:12")]
    with pytest.raises(InputError, match=r"vqa\.jsonl:12: the prompt takes"):
        answer_batch(*member("llava"), samples, max_new_tokens=1)
