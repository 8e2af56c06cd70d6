"""From questions about images to the arguments of a model's `forward`, and from there to prompt and answer in
one sequence.

    Sample + image ─ prompt_text ─► text ─ processor ─► tensors ─ extend ─► tensors of prompt and answer

The processor expands the image's place into visual tokens and tokenizes. Here it gets its arguments in the
form that all processors understand (images as a list per question), and it is not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from bivlm.errors import InputError
from bivlm.families.processors import check_processor, refusals_named
from bivlm.families.templates import apply_chat_template
from bivlm.types import Sample

TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")  # (n, t)
TARGETS = "labels"  # targets of training: with them `forward` computes a loss
SEEN_FROM_TOKENS = "cross_attention_mask"  # (n, t, images, tiles): which tiles of the image a token sees


def build(
    processor: Any,
    model_type: str,
    prompt: str | None,
    samples: Sequence[Sample],
    images: Sequence[Image.Image],
    limit: int | None,
) -> dict[str, Tensor]:
    """The implementation of `Family.inputs`: prompts padded on the left. `limit` is the most tokens a prompt
    may have.
    """
    if len(samples) != len(images):
        raise ValueError(f"{len(samples)} samples need as many images, one each; {len(images)} were given")
    check_processor(processor)
    if len(samples) > 1 and processor.tokenizer.pad_token is None:
        raise InputError(
            "the processor's tokenizer has no pad_token, so questions of different lengths cannot share a"
            " batch; use a batch size of 1"
        )
    texts = [prompt_text(processor, prompt, sample) for sample in samples]
    bos = processor.tokenizer.bos_token
    written = bos is not None and all(
        bos in _before_question(text, sample) for text, sample in zip(texts, samples, strict=True)
    )
    with refusals_named(names_of(samples)):
        batch = processor(
            text=texts,
            images=[[image] for image in images],
            do_convert_rgb=True,  # transparency onto white, by transformers
            padding=len(samples) > 1,
            padding_side="left",
            truncation=False,
            add_special_tokens=not written,
            return_tensors="pt",
        )
    accepted = forward_arguments(model_type)
    inputs = {name: tensor for name, tensor in batch.items() if name in accepted and name != TARGETS}
    check_length(inputs["attention_mask"], samples, limit)
    return inputs


def prompt_text(processor: Any, prompt: str | None, sample: Sample) -> str:
    """The question in the form that the model was trained on: by the processor's chat template, or by the
    family's `prompt` if there is none.
    """
    for token in (getattr(processor, "image_token", None), getattr(processor, "video_token", None)):
        if token and token in sample.question:
            raise InputError(
                f"{name_of(sample)}: the question holds {token}, the place of an image; take it out, the"
                " image is added by itself"
            )
    if processor.chat_template is None:
        return declared_prompt(processor, prompt).format(
            image=processor.image_token, question=sample.question, bos=processor.tokenizer.bos_token or ""
        )
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}
    return apply_chat_template(processor, message)


def declared_prompt(processor: Any, prompt: str | None) -> str:
    """The family's prompt; InputError if there is none, and so no way to ask the model."""
    if prompt is None:
        raise InputError(
            f"{type(processor).__name__} has no chat template, and bivlm knows no prompt for this"
            " architecture; put the model's chat template into its folder (chat_template.jinja)"
        )
    return prompt


def _before_question(text: str, sample: Sample) -> str:
    """The part of a prompt in which a beginning-of-sequence token is the template's, not the question's."""
    place = text.rfind(sample.question)
    return text if place < 0 else text[:place]


@cache
def forward_arguments(model_type: str) -> frozenset[str]:
    """The names of what the `forward` of an architecture takes. Processors may return more (token_type_ids
    that the tokenizer always makes).
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )  # heavy, and a model is at hand when this is called

    model_class = getattr(transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type])
    return frozenset(signature(model_class.forward).parameters)


def check_length(attention_mask: Tensor, samples: Sequence[Sample], limit: int | None) -> None:
    for sample, count in zip(samples, attention_mask.sum(1).tolist(), strict=True):
        if limit is not None and count > limit:
            raise InputError(
                f"{name_of(sample)}: the prompt takes {count} tokens and the model reads at most {limit};"
                " shorten the question"
            )


def name_of(sample: Sample) -> str:
    return sample.origin or f"question {sample.question[:40]!r}"


def names_of(samples: Sequence[Sample]) -> str:
    return name_of(samples[0]) if len(samples) == 1 else f"{name_of(samples[0])} … {name_of(samples[-1])}"


def extend(inputs: Mapping[str, Tensor], answers: Tensor, mask: Tensor, token_type: int) -> dict[str, Tensor]:
    """The implementation of `Family.extend`: every tensor that has an entry per token grows by the answers'
    length, the others do not change. `token_type` marks the answers.
    """
    if answers.shape != mask.shape or len(answers) != len(inputs["input_ids"]):
        shapes = f"answers {tuple(answers.shape)} and mask {tuple(mask.shape)}"
        raise ValueError(f"{shapes} must be alike, a row for each of {len(inputs['input_ids'])} prompts")

    def after(name: str, added: Tensor) -> Tensor:
        return torch.cat([inputs[name], added.to(inputs[name])], dim=1)

    grown = {"input_ids": after("input_ids", answers), "attention_mask": after("attention_mask", mask)}
    grown |= {
        name: after(name, torch.full_like(answers, token_type)) for name in TOKEN_TYPES if name in inputs
    }
    if SEEN_FROM_TOKENS in inputs:
        last = inputs[SEEN_FROM_TOKENS][:, -1:]
        grown[SEEN_FROM_TOKENS] = after(SEEN_FROM_TOKENS, last.expand(-1, answers.shape[1], -1, -1))
    return {**inputs, **grown}
