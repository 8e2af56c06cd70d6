"""Videos in prompts: what processors make of them, what the model sees, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from bivlm import families
from bivlm.calibration.streams import replayed_logits
from bivlm.contracts import Member
from bivlm.data.videos import FRAME_RATE, open_visuals
from bivlm.errors import InputError
from bivlm.families import family_of
from bivlm.families.found.structure import family_from
from bivlm.families.pixels import PixelBounds, bound_pixels
from bivlm.types import Sample, Video
from tiny import ALL, MEMBERS, each, tiny_config, tiny_processor
from tiny.kind import TILE
from videos import frames

BY_NAME = {member.name: member for member in MEMBERS}
FILMING = [
    name
    for name in ALL
    if name != "gemma4_e2b"  # gemma4 has its processor and its code
    and getattr(tiny_processor(name), "video_processor", None) is not None
]
FEWEST = dict.fromkeys(("qwen3_vl", "qwen3_5", "glm4v", "glm46v", "glm_ocr"), 2)
VIDEO, IMAGE = Video(frames(4)), frames(1, 7)[0]
ASKED = Sample(VIDEO, "Is it red?", origin="the clip")
OTHER = Sample(Video(frames(4, 1)), "What color is the square now?", origin="the other")


def inputs_of(member: Member, *samples: Sample, processor: Any = None) -> dict[str, Tensor]:
    opened = open_visuals(samples)
    return member.family.inputs(processor or member.processor, samples, opened, member.config)


def prompt_of(member: Member, *samples: Sample, processor: Any = None) -> str:
    """The prompt of the first sample; a run of n equal tokens is token×n."""
    ids = inputs_of(member, *samples, processor=processor)["input_ids"][0].tolist()
    words = [(token, len(list(run))) for token, run in groupby(ids)]
    visual = member.family.visual_tokens(member.config)
    decode = member.processor.tokenizer.decode
    return "".join(f"{decode([t])}×{n}" if t in visual else decode([t] * n) for t, n in words)


PROMPTS = {
    "llava_onevision": "<|im_start|>user <video>×17\nIs it red?<|im_end|><|im_start|>assistant\n",
    "qwen2_vl": (
        "<|im_start|>user\n<|vision_start|><|video_pad|>×12<|vision_end|>Is it"
        " red?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "smolvlm": (
        "<|im_start|>User: You are provided the following series of four frames from a 0:00:02 [H:MM:SS]"
        " video.\n\nFrame from"
        " 00:00:<fake_token_around_image><global-img><image>×4<fake_token_around_image>\nFrame from"
        " 00:00:<fake_token_around_image><global-img><image>×4<fake_token_around_image>\nFrame from"
        " 00:01:<fake_token_around_image><global-img><image>×4<fake_token_around_image>\nFrame from"
        " 00:01:<fake_token_around_image><global-img><image>×4<fake_token_around_image>\n\nIs it"
        " red?<end_of_utterance>\nAssistant:"
    ),
    "qwen3_vl": (
        "<|im_start|>user\n<|vision_start|><0.2 seconds><|vision_start|><|video_pad|>×6<|vision_end|>"
        "<1.2 seconds><|vision_start|><|video_pad|>×6<|vision_end|><|vision_end|>Is it"
        " red?<|im_end|>\n<|im_start|>assistant\n"
    ),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_prompt_is_the_golden_text(kind):
    """At 2 frames per second, which is assumed: Qwen3-VL's frames 0 and 1 are at 0.25 s."""
    assert FRAME_RATE == 2
    assert prompt_of(BY_NAME[kind], ASKED) == PROMPTS[kind]


@pytest.mark.parametrize("kind", each(FILMING))
def test_inputs_are_what_the_processor_itself_makes_of_the_frames(kind):
    member = BY_NAME[kind]
    processor = tiny_processor(kind)
    message = [{"type": "video"}, {"type": "text", "text": ASKED.question}]
    text = processor.apply_chat_template([{"role": "user", "content": message}], add_generation_prompt=True)
    wanted = processor(
        text=[text],
        videos=[list(frames(4))],
        do_sample_frames=False,
        video_metadata=[{"total_num_frames": 4, "fps": 2.0, "frames_indices": [0, 1, 2, 3], "duration": 2.0}],
        add_special_tokens="<s>" not in text,
        return_tensors="pt",
    )
    found = inputs_of(member, ASKED)
    assert {"input_ids", "attention_mask"} < found.keys() <= wanted.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize("kind", each(FILMING))
def test_a_video_gives_the_same_logits_alone_in_a_batch_and_paused_at_every_block(kind):
    member = BY_NAME[kind]
    samples = [ASKED, OTHER, Sample(None, "Why?", origin="no video")]
    together = member.logits(inputs_of(member, *samples))
    for number, sample in enumerate(samples):
        inputs = inputs_of(member, sample)
        alone = member.logits(inputs)
        assert alone.isfinite().all()
        torch.testing.assert_close(together[number, -alone.shape[1] :], alone[0], rtol=0, atol=2e-4)
    inputs = inputs_of(member, ASKED)
    assert torch.equal(replayed_logits(member.model, inputs, member.paths), member.logits(inputs))


@pytest.mark.parametrize("kind", each(FILMING))
def test_images_and_videos_in_one_prompt_or_batch_are_read_or_refused(kind):
    member = BY_NAME[kind]
    mixed = Sample.of(("Is ", IMAGE, " in ", VIDEO, "?"), origin="both")
    if not member.family.mixes_videos:
        with pytest.raises(InputError, match="both: the model takes no images and videos together; give its"):
            inputs_of(member, mixed)
        with pytest.raises(InputError, match="no images and videos together; use a batch size of 1"):
            inputs_of(member, ASKED, Sample(IMAGE, "Is it?"))
        return
    inputs = inputs_of(member, mixed)
    alone = member.logits(inputs)
    assert torch.equal(replayed_logits(member.model, inputs, member.paths), alone)
    together = member.logits(inputs_of(member, mixed, Sample(IMAGE, "Is it a red square?"), ASKED))
    torch.testing.assert_close(together[0, -alone.shape[1] :], alone[0], rtol=0, atol=2e-4)
    swapped = Sample.of(("Is ", VIDEO, " in ", IMAGE, "?"))
    assert (member.logits(inputs_of(member, swapped))[0, -1] - alone[0, -1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", each(FILMING))
def test_the_visual_mask_marks_the_places_that_the_video_fills(kind):
    member, entered = BY_NAME[kind], []
    block = member.blocks(member.family.stacks[-1])[0]
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    for sample in (ASKED, replace(OTHER, question=ASKED.question)):
        inputs = inputs_of(member, sample)
        member.logits(inputs)
    handle.remove()
    differs, mask = (entered[0] != entered[1]).any(-1), member.visual(inputs)
    assert mask.any()
    assert not (differs & ~mask).any()
    assert (mask & ~differs).sum() <= member.fixed_tokens  # LLaVA-OneVision's learned end of a video


@pytest.mark.parametrize("kind", each(FILMING))
def test_answers_after_a_video_are_decoded_as_they_are_forced(kind):
    member = BY_NAME[kind]
    inputs = inputs_of(member, ASKED)
    output = member.model.generate(
        **inputs,
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
        suppress_tokens=list(member.family.visual_tokens(member.config)),
        output_logits=True,
        return_dict_in_generate=True,
    )
    start = inputs["input_ids"].shape[1]
    answers = output.sequences[:, start:]
    forced = member.logits(member.family.extend(inputs, answers, torch.ones_like(answers)))
    stepwise = torch.stack(output.logits, dim=1)
    torch.testing.assert_close(forced[:, start - 1 : -1], stepwise, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", each(FILMING))
def test_a_video_of_one_frame_is_read_or_refused(kind):
    member, sample = BY_NAME[kind], Sample(Video(frames(1)), "Is it red?", origin="short")
    if kind in FEWEST:
        with pytest.raises(InputError, match=f"short: .* takes videos of {FEWEST[kind]} frames or more"):
            inputs_of(member, sample)
    else:
        assert member.visual(inputs_of(member, sample)).any()


@pytest.mark.parametrize("kind", each(FILMING))
def test_videos_of_different_lengths_share_a_batch_or_are_refused(kind):
    member = BY_NAME[kind]
    shorter = Sample(Video(frames(2, 3)), "Is it blue?", origin="shorter")
    if kind in ("llava_onevision", "smolvlm", "internvl"):
        with pytest.raises(InputError, match="videos of one length together, and these have 2 and 4 frames;"):
            inputs_of(member, ASKED, shorter)
        return
    together = member.logits(inputs_of(member, ASKED, shorter))
    alone = member.logits(inputs_of(member, shorter))[0]
    torch.testing.assert_close(together[1, -len(alone) :], alone, rtol=0, atol=2e-4)


def test_the_rate_of_a_video_says_when_its_frames_are():
    text = prompt_of(BY_NAME["qwen3_vl"], replace(ASKED, image=replace(VIDEO, fps=10.0)))
    assert "<0.1 seconds>" in text
    assert "<0.2 seconds>" in text
    chosen = prompt_of(BY_NAME["qwen3_vl"], replace(ASKED, image=replace(VIDEO, most=2)))
    assert "<0.8 seconds>" in chosen, "frames 0 and 3, in the middle between them"
    times = inputs_of(BY_NAME["qwen2_5_vl"], replace(ASKED, image=replace(VIDEO, fps=10.0)))
    assert times["second_per_grid_ts"].tolist() == pytest.approx([0.2])


def test_a_family_without_videos_offers_the_frames_as_images():
    member = BY_NAME["llava"]
    with pytest.raises(InputError) as caught:
        inputs_of(member, ASKED)
    assert (
        str(caught.value)
        == "the clip: LlavaProcessor takes no videos; give its frames as images (--image for each)"
    )


def test_a_template_without_a_place_for_a_video_is_told():
    processor = tiny_processor("qwen2_vl")
    processor.chat_template = processor.chat_template.replace("'video'", "'film'")
    with pytest.raises(InputError, match=r"the clip: 1 videos are given, and .* has a place for 0"):
        inputs_of(BY_NAME["qwen2_vl"], ASKED, processor=processor)
    processor.chat_template = None
    member = BY_NAME["llava_onevision"]
    without = tiny_processor("llava_onevision")
    without.chat_template = None
    with pytest.raises(InputError, match="no chat template, and so no place for a video"):
        inputs_of(member, ASKED, processor=without)


def test_a_found_family_takes_videos_if_its_config_names_their_token():
    declared = BY_NAME["qwen2_vl"]
    found = family_from(
        "qwen2_vl", declared.family.auto_class, declared.family.stacks, (), declared.config.image_token_id, 0
    )
    assert found.origin == "found"
    opened = open_visuals([ASKED])
    inputs = found.inputs(declared.processor, [ASKED], opened, declared.config)
    assert torch.equal(inputs["input_ids"], inputs_of(declared, ASKED)["input_ids"])
    assert found.visual_mask(declared.config, inputs["input_ids"]).sum() == 12
    other = tiny_config("qwen2_vl")
    other.video_token_id += 1
    for config in (tiny_config("llava"), other):
        with pytest.raises(InputError, match="the clip: no token for videos was found in this model's conf"):
            found.inputs(declared.processor, [ASKED], opened, config)
    mixed = Sample((IMAGE, VIDEO), "Which?", origin="both")
    with pytest.raises(InputError, match="takes no images and videos together"):
        found.inputs(declared.processor, [mixed], open_visuals([mixed]), declared.config)


def test_pixels_that_the_model_does_not_take_are_no_video(monkeypatch):
    member = BY_NAME["qwen2_vl"]
    known = member.family.arguments - {"pixel_values_videos"}
    monkeypatch.setattr(families.base.Family, "arguments", known)
    with pytest.raises(InputError, match=r"takes videos, and the model does not \(pixel_values_videos\)"):
        inputs_of(member, ASKED)


def test_control_tokens_that_are_typed_next_to_a_video_stay_text():
    member = BY_NAME["qwen2_vl"]
    typed = replace(ASKED, question="Is <|im_end|> red?")
    found = inputs_of(member, typed)["input_ids"][0].tolist()
    end = member.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert found.count(end) == inputs_of(member, ASKED)["input_ids"][0].tolist().count(end)
    with pytest.raises(InputError, match=r"the question holds <\|video_pad\|>"):
        inputs_of(member, replace(ASKED, question="Is <|video_pad|> red?"))


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl", "smolvlm"])
def test_frames_are_within_the_bound_of_pixels_though_control_tokens_are_typed(kind):
    """In every frame; Qwen3-VL's own bounds are those of all frames together."""
    member, processor = BY_NAME[kind], tiny_processor(kind)
    large = Video(tuple(frame.resize((96, 80)) for frame in frames(4)))
    bound_pixels(processor, PixelBounds(TILE * TILE))
    for question in ("Is it red?", "Is <|im_start|> red?", "Is <end_of_utterance> red?"):
        inputs = inputs_of(member, Sample(large, question), processor=processor)
        pixels = inputs.get("pixel_values_videos", inputs.get("pixel_values"))
        assert pixels is not None
        assert pixels.numel() <= 4 * 3 * TILE * TILE


def test_an_image_is_within_its_bound_though_control_tokens_are_typed():
    member, processor = BY_NAME["llava_next"], tiny_processor("llava_next")
    bound_pixels(processor, PixelBounds(2 * TILE * TILE))
    large = Image.new("RGB", (200, 190), "red")
    plain, typed = (
        inputs_of(member, Sample(large, question), processor=processor)["pixel_values"].shape
        for question in ("Is it red?", "Is </s> red?")
    )
    assert plain == typed


def test_a_language_model_reads_no_video():
    with pytest.raises(
        InputError, match="the clip: the model is a language model and reads no image or video"
    ):
        family_of("llama").inputs(tiny_processor("llava").tokenizer, [ASKED], [], None)
