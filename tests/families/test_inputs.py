"""Questions that can be asked, questions that cannot, and what the user is told about those."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bivlm.errors import InputError
from bivlm.families import family_of
from bivlm.families.inputs import forward_arguments
from bivlm.families.prompts import prompt_text
from bivlm.types import Sample, Turn
from tiny import MEMBERS, TEXT_LIMIT, each, tiny_config, tiny_processor, tiny_samples

PROMPTS = {member.name: member.prompt for member in MEMBERS}


def ask(kind: str, *samples: Sample, processor: object = None) -> dict[str, torch.Tensor]:
    config = tiny_config(kind)
    return family_of(config).inputs(
        processor or tiny_processor(kind), samples, [sample.images for sample in samples], config
    )


def text_of(kind: str, inputs: dict[str, torch.Tensor]) -> str:
    return tiny_processor(kind).tokenizer.decode(inputs["input_ids"][0])


@pytest.mark.parametrize("kind", each())
def test_beginning_of_sequence_stands_at_most_once(kind: str):
    """Whether the template writes it, the tokenizer adds it, both would, or none does; and by the family's
    own prompt, if it has one.
    """
    without_template = tiny_processor(kind)
    without_template.chat_template = None
    declared = family_of(tiny_config(kind)).prompt is not None
    for processor in (tiny_processor(kind), *([without_template] if declared else [])):
        text = text_of(kind, ask(kind, *tiny_samples(1), processor=processor))
        assert text.count("<s>") == PROMPTS[kind].count("<s>") <= 1


@pytest.mark.parametrize("question", ["s", "<", "User", ""])
def test_a_question_that_is_part_of_the_template_changes_nothing_in_front(question: str):
    text = text_of("idefics3", ask("idefics3", replace(tiny_samples(1)[0], question=question)))
    assert text.startswith("<s>User:<fake_token_around_image>")
    assert text.endswith(f"<fake_token_around_image>{question}<end_of_utterance>\nAssistant:")


def test_a_question_that_names_the_beginning_of_sequence_keeps_the_tokenizers_own():
    sample = replace(tiny_samples(1)[0], question="What is <s>old</s> here?")
    assert text_of("llava", ask("llava", sample)).startswith("<s>USER:")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("llava", "<s>USER: {image}\nIs it red? ASSISTANT:"),
        ("llava_next", "<s>[INST] {image}\nIs it red? [/INST]"),
        ("llava_onevision", "<|im_start|>user {image}\nIs it red?<|im_end|><|im_start|>assistant\n"),
        ("mllama", "{image}<s>Is it red?"),
        ("smolvlm", "<s>User:{image}Is it red?<end_of_utterance>\nAssistant:"),
    ],
)
def test_family_prompt_serves_a_processor_without_a_chat_template(kind: str, text: str):
    processor = tiny_processor(kind)
    processor.chat_template = None
    decoded = text_of(kind, ask(kind, *tiny_samples(1), processor=processor))
    before, after = text.split("{image}")
    assert decoded.startswith(before)
    assert decoded.endswith(after)
    assert processor.image_token in decoded[len(before) : -len(after)]


def test_braces_in_a_question_are_text():
    processor = tiny_processor("llava")
    processor.chat_template = None
    inputs = ask(
        "llava", replace(tiny_samples(1)[0], question="What is {x} or {image}?"), processor=processor
    )
    assert text_of("llava", inputs).endswith("What is {x} or {image}? ASSISTANT:")


@pytest.mark.parametrize("kind", each())
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_images_of_every_mode_are_seen_in_colour(kind: str, mode: str):
    """Whatever the processor was told about converting: many of the older ones do not ask for it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
    image = (
        Image.fromarray(pixels.astype(np.uint16)) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    )
    processor = tiny_processor(kind)
    processor.image_processor.do_convert_rgb = False
    seen = ask(kind, Sample(image, "Is it red?"), processor=processor)
    wanted = ask(kind, Sample(image.convert("RGB"), "Is it red?"))
    assert all(torch.equal(seen[name], wanted[name]) for name in wanted)
    assert processor.image_processor.do_convert_rgb is False


def test_transparency_is_white():
    empty = Image.new("RGBA", (40, 48), (255, 0, 0, 0))
    white = Image.new("RGB", (40, 48), (255, 255, 255))
    seen, wanted = (ask("llava", Sample(image, "Is it red?"))["pixel_values"] for image in (empty, white))
    assert torch.equal(seen, wanted)


def test_a_question_of_ten_thousand_characters_is_refused_by_name():
    sample = replace(tiny_samples(1)[0], question="Is it red? " * 900, origin="vqa.jsonl:12")
    with pytest.raises(
        InputError,
        match=rf"vqa\.jsonl:12: the prompt takes \d+ tokens and the model reads at most {TEXT_LIMIT}",
    ):
        ask("qwen2_5_vl", sample)


def test_the_limit_itself_still_fits():
    sample = tiny_samples(1)[0]
    short = int(ask("llava", replace(sample, question="a"))["attention_mask"].sum())
    fitting = replace(
        sample, question="a" + "{" * (TEXT_LIMIT - short)
    )  # a character that merges with nothing
    assert int(ask("llava", fitting)["attention_mask"].sum()) == TEXT_LIMIT
    with pytest.raises(InputError, match=f"takes {TEXT_LIMIT + 1} tokens"):
        ask("llava", replace(fitting, question=fitting.question + "{"))


@pytest.mark.parametrize(
    ("kind", "token"),
    [
        ("llava", "<image>"),
        ("qwen2_5_vl", "<|image_pad|>"),
        ("qwen2_5_vl", "<|video_pad|>"),
        ("mllama", "<|image|>"),
    ],
)
def test_an_image_token_in_the_question_is_refused(kind: str, token: str):
    sample = replace(tiny_samples(1)[0], question=f"What is {token}?", origin="")
    with pytest.raises(InputError, match=r"question 'What is <.*the question holds <.*take it out"):
        ask(kind, sample)


def test_what_the_processor_refuses_names_the_sample():
    sample = Sample(Image.new("RGB", (1000, 2)), "Is it red?", origin="vqa.jsonl:3")
    with pytest.raises(InputError, match=r"vqa\.jsonl:3 \(an image of 1000 x 2 pixels\): .*aspect ratio"):
        ask("qwen2_5_vl", sample)


def test_a_tokenizer_that_cannot_pad_serves_single_questions():
    processor = tiny_processor("llava")
    processor.tokenizer.pad_token = None
    first, second = tiny_samples(2)
    assert ask("llava", first, processor=processor)["attention_mask"].all()
    with pytest.raises(InputError, match=r"no pad_token.*batch size of 1"):
        ask("llava", first, second, processor=processor)


def test_a_processor_that_cannot_count_visual_tokens_is_refused():
    processor = tiny_processor("llava_next")
    processor.patch_size = None
    with pytest.raises(InputError, match=r"LlavaNextProcessor lacks patch_size, .*processor_config\.json"):
        ask("llava_next", *tiny_samples(1), processor=processor)


def test_what_forward_does_not_take_is_left_out():
    processor = tiny_processor("llava")
    processor.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert set(ask("llava", *tiny_samples(1), processor=processor)) == {
        "input_ids",
        "attention_mask",
        "pixel_values",
    }
    assert "batch_num_images" in forward_arguments("AutoModelForImageTextToText", "llava_onevision")


@pytest.mark.parametrize(
    ("auto_class", "model_type", "taken", "left_out"),
    [
        ("AutoModelForImageTextToText", "gemma3", "token_type_ids", "num_crops"),
        ("AutoModelForMultimodalLM", "qwen2_5_omni_thinker", "input_features", "kwargs"),
        ("AutoModelForCausalLM", "qwen3", "attention_mask", "token_type_ids"),
    ],
)
def test_what_forward_takes_is_that_of_the_class_that_is_built(
    auto_class: str, model_type: str, taken: str, left_out: str
):
    names = forward_arguments(auto_class, model_type)
    assert taken in names
    assert left_out not in names


def test_a_prompt_without_a_chat_template_holds_images_where_they_stand():
    processor = tiny_processor("qwen2_vl")
    processor.chat_template = None
    image = tiny_samples(1)[0].image
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    family = family_of("qwen2_vl")
    for parts, said in (
        ((image, image, "Is it red?"), f"user\n{mark}{mark}Is it red?<|im_end|>"),
        ((image, "Is ", image, " red?"), f"user\n{mark}Is {mark} red?<|im_end|>"),
        (("Is it red?",), "user\nIs it red?<|im_end|>"),
    ):
        assert said in prompt_text(processor, family, Sample.of(parts))


def test_a_template_with_too_few_places_is_named():
    processor, image = tiny_processor("llava"), tiny_samples(1)[0].image
    processor.chat_template = "USER: <image>\n{{ messages[0]['content'][-1]['text'] }} ASSISTANT:"
    sample = Sample((image, image), "Is it red?", origin="vqa.jsonl:7")
    with pytest.raises(InputError, match=r"vqa\.jsonl:7: 2 images are given.*has a place for 1; give fewer"):
        ask("llava", sample, processor=processor)


def test_more_images_than_the_model_takes_are_named():
    family, image = replace(family_of("llava"), most_images=1), tiny_samples(1)[0].image
    sample = Sample((image, image), "Is it red?", origin="vqa.jsonl:7")
    with pytest.raises(
        InputError, match=r"vqa\.jsonl:7: 2 images are given, and this model takes 1; give fewer"
    ):
        family.inputs(tiny_processor("llava"), [sample], [sample.images])


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ messages[0]['content'] + ' ' }}{{ messages[1]['content'][0]['text'] }}", "Be brief. Is it red?"),
        ("{{ messages[0]['content'] }}{{ messages[1]['content'][0]['text'] }}", "Be brief.Is it red?"),
        (
            "{{ messages[0]['content'][0]['text'] }}|{{ messages[1]['content'][0]['text'] }}",
            "Be brief.|Is it",
        ),
        ("{{ messages[-1]['content'][0]['text'] }}", None),
        ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}a", None),
    ],
)
def test_a_system_prompt_takes_the_form_of_the_template(template: str, shown: str | None):
    processor = tiny_processor("llava")
    processor.chat_template = template
    sample = Sample(None, "Is it red?", system="Be brief.")
    if shown is None:
        with pytest.raises(InputError, match="chat template shows no system prompt"):
            prompt_text(processor, family_of("llava"), sample)
    else:
        assert prompt_text(processor, family_of("llava"), sample).startswith(shown)


def test_a_place_of_an_image_in_the_system_prompt_is_refused():
    with pytest.raises(InputError, match="the system prompt holds <image>"):
        ask("llava", replace(tiny_samples(1)[0], system="See <image>"))


def conversation() -> Sample:
    """Two turns before the question, an image in the first and in the last."""
    image = tiny_samples(1)[0].image
    turns = (Turn((image, "What is here?"), "Akite"), Turn(("And its size?",), "Tiny!"))
    return Sample(image, "Is it red?", turns=turns)


@pytest.mark.parametrize("kind", each())
def test_earlier_turns_stand_before_the_question_or_are_refused(kind: str):
    sample = conversation()
    processor, family = tiny_processor(kind), family_of(tiny_config(kind))
    if processor.chat_template is None:
        with pytest.raises(InputError, match="no place for earlier turns"):
            prompt_text(processor, family, sample)
        return
    text = prompt_text(processor, family, sample)
    places = [text.find(part) for part in ("What is here?", "Akite", "And its size?", "Tiny!", "Is it red?")]
    assert -1 not in places
    assert places == sorted(places)


def test_a_template_without_earlier_turns_and_a_place_in_one_are_refused():
    processor = tiny_processor("llava")
    processor.chat_template = "{{ messages[-1]['content'][-1]['text'] }} Akite <image><image>"
    with pytest.raises(InputError, match="does not show the earlier turns"):
        prompt_text(processor, family_of("llava"), conversation())
    with pytest.raises(InputError, match="the earlier turn holds <image>"):
        ask("llava", Sample(None, "Is it red?", turns=(Turn(("See <image>",), "A"),)))


def test_as_many_images_as_samples():
    with pytest.raises(ValueError, match="2 samples need their images"):
        family_of("llava").inputs(tiny_processor("llava"), tiny_samples(2), [tiny_samples(1)[0].image])


def test_extend_wants_a_row_for_each_prompt():
    inputs = ask("llava", *tiny_samples(2))
    with pytest.raises(ValueError, match="a row for each of 2 prompts"):
        family_of("llava").extend(inputs, torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3))


def test_extend_makes_answers_text_that_sees_the_image():
    inputs = ask("mllama", *tiny_samples(2))
    grown = family_of("mllama").extend(inputs, torch.full((2, 3), 20), torch.ones(2, 3))
    assert torch.equal(grown["cross_attention_mask"][:, :-3], inputs["cross_attention_mask"])
    assert torch.equal(
        grown["cross_attention_mask"][:, -3:], inputs["cross_attention_mask"][:, -1:].expand(-1, 3, -1, -1)
    )
    inputs = ask("qwen2_vl", *tiny_samples(2))
    grown = family_of("qwen2_vl").extend(inputs, torch.full((2, 3), 20), torch.ones(2, 3))
    assert grown["mm_token_type_ids"].dtype == inputs["mm_token_type_ids"].dtype
    assert not grown["mm_token_type_ids"][:, -3:].any()
    assert grown["pixel_values"] is inputs["pixel_values"]


def test_a_processor_without_a_template_needs_a_prompt_of_the_family() -> None:
    processor = SimpleNamespace(chat_template=None, image_token="<image>")
    with pytest.raises(InputError, match=r"has no chat template, and bivlm knows no prompt"):
        prompt_text(processor, replace(family_of("llava"), prompt=None), Sample(None, "Is it red?", ("yes",)))
