"""From questions about images to the arguments of a model's `forward`, and from there to prompt and answer in
one sequence.

    Sample + images ─ prompt_text ─► text ─ processor ─► tensors ─ extend ─► tensors of prompt and answer

The processor expands an image's place into visual tokens and tokenizes. Here it gets its arguments in the
form that all processors understand (images as a list per question), and it is not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.errors import InputError
from bivlm.families.pixels import fitted
from bivlm.families.processors import check_processor, refusals_named
from bivlm.families.prompts import check_no_places, name_of, names_of, prompt_text
from bivlm.families.typed import as_text, check_read
from bivlm.families.videos import check_kept, check_videos, video_arguments
from bivlm.types import Clip, Sample

if TYPE_CHECKING:
    from bivlm.families.base import Family

TOKEN_TYPES, MODALITIES = "token_type_ids", "mm_token_type_ids"  # (n, t); a modality of 0 is text
TARGETS = "labels"  # targets of training: with them `forward` computes a loss
THIN = 4  # pixels; an image with a shorter edge may be nothing when it is divided
SEEN_FROM_TOKENS = "cross_attention_mask"  # (n, t, images, tiles): which tiles of the image a token sees


def build(
    processor: Any,
    family: Family,
    samples: Sequence[Sample],
    visuals: Sequence[Sequence[Image.Image | Clip]],
    config: PretrainedConfig | None,
) -> dict[str, Tensor]:
    """The implementation of `Family.inputs`: prompts padded on the left."""
    if [len(sample.visuals) for sample in samples] != [len(own) for own in visuals]:
        raise ValueError(f"{len(samples)} samples need their images, and {len(visuals)} entries were given")
    _check_batch(processor, family, samples)
    check_videos(processor, family, samples, config)
    images = [[fitted(processor, one) for one in own if isinstance(one, Image.Image)] for own in visuals]
    clips = [one for own in visuals for one in own if isinstance(one, Clip)]
    videos = video_arguments(processor, samples, clips)
    processor, samples = as_text(processor, samples)
    texts = [prompt_text(processor, family, sample) for sample in samples]
    with refusals_named(names_of(samples) + _told_if_thin(images)):
        batch = processor(
            text=texts,
            images=images if any(images) else None,
            do_convert_rgb=True,  # transparency onto white, by transformers
            padding=len(samples) > 1,
            padding_side="left",
            truncation=False,
            add_special_tokens=not _begin_with_bos(processor.tokenizer.bos_token, texts, samples),
            return_tensors="pt",
            **videos,
        )
    check_read(processor, texts)
    accepted = family.arguments
    check_kept(processor, batch, accepted, samples)
    inputs = {name: tensor for name, tensor in batch.items() if name in accepted and name != TARGETS}
    check_length(inputs["attention_mask"], samples, None if config is None else family.token_limit(config))
    return inputs


def _check_batch(processor: Any, family: Family, samples: Sequence[Sample]) -> None:
    """InputError, naming the sample, for questions that cannot be asked, or not together."""
    check_processor(processor)
    if len(samples) > 1 and processor.tokenizer.pad_token is None:
        raise InputError(
            "the processor's tokenizer has no pad_token, so questions of different lengths cannot share a"
            " batch; use a batch size of 1"
        )
    many = next((one for one in samples if len(one.images) > (family.most_images or len(one.images))), None)
    if many is not None:
        raise InputError(
            f"{name_of(many)}: {len(many.images)} images are given, and this model takes"
            f" {family.most_images}; give fewer"
        )
    if not family.mixed_batches and len({len(sample.images) for sample in samples}) > 1:
        raise InputError(
            f"{names_of(samples)}: the questions have different numbers of images, which cannot share a batch"
            " in this model; use a batch size of 1"
        )
    for sample in samples:
        check_no_places(processor, sample)


def _told_if_thin(images: Sequence[Sequence[Image.Image]]) -> str:
    """The size of the thinnest image, where some are so thin that a processor may fail."""
    thinnest = min((one.size for own in images for one in own), key=min, default=(THIN, THIN))
    return f" (an image of {thinnest[0]} x {thinnest[1]} pixels)" if min(thinnest) < THIN else ""


def _begin_with_bos(bos: str | None, texts: Sequence[str], samples: Sequence[Sample]) -> bool:
    """Whether prompts hold the beginning-of-sequence token already: in front of what the user wrote, where it
    is the template's.
    """
    return bos is not None and all(
        bos in text[: _beginning_of_user_text(text, sample)]
        for text, sample in zip(texts, samples, strict=True)
    )


def _beginning_of_user_text(text: str, sample: Sample) -> int:
    """Where in a prompt the user's words begin; its end if they are not found."""
    earlier = [part for turn in sample.turns for part in turn.parts]
    texts = [part for part in (sample.system, *earlier, *sample.parts) if part and isinstance(part, str)]
    place = text.rfind(texts[0]) if texts else -1
    return len(text) if place < 0 else place


@cache
def forward_arguments(auto_class: str, model_type: str) -> frozenset[str]:
    """The names of what the `forward` of an architecture takes, as `auto_class` of transformers builds it.

    Processors may return more: token_type_ids that the tokenizer always makes, counts of tiles. A `**kwargs`
    of `forward` takes nothing from a processor: what the model reads has a name.
    """
    found = getattr(transformers, auto_class)._model_mapping[transformers.CONFIG_MAPPING[model_type]]
    model_class = found if isinstance(found, type) else found[0]  # of several the first is the default
    return arguments_of(model_class)


def arguments_of(model_class: Any) -> frozenset[str]:
    """The names of what the `forward` of a model's class takes."""
    taken = signature(model_class.forward).parameters.values()
    return frozenset(
        one.name
        for one in taken
        if one.name != "self" and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    )


def check_length(attention_mask: Tensor, samples: Sequence[Sample], limit: int | None) -> None:
    for sample, count in zip(samples, attention_mask.sum(1).tolist(), strict=True):
        if limit is not None and count > limit:
            raise InputError(
                f"{name_of(sample)}: the prompt takes {count} tokens and the model reads at most {limit};"
                " shorten the question"
            )


def extend(inputs: Mapping[str, Tensor], answers: Tensor, mask: Tensor, token_type: int) -> dict[str, Tensor]:
    """The implementation of `Family.extend`: every tensor that has an entry per token grows by the answers'
    length, the others do not change. `token_type` marks the answers in TOKEN_TYPES.
    """
    if answers.shape != mask.shape or len(answers) != len(inputs["input_ids"]):
        shapes = f"answers {tuple(answers.shape)} and mask {tuple(mask.shape)}"
        raise ValueError(f"{shapes} must be alike, a row for each of {len(inputs['input_ids'])} prompts")

    def after(name: str, added: Tensor) -> Tensor:
        return torch.cat([inputs[name], added.to(inputs[name])], dim=1)

    grown = {"input_ids": after("input_ids", answers), "attention_mask": after("attention_mask", mask)}
    for name, value in ((TOKEN_TYPES, token_type), (MODALITIES, 0)):
        if name in inputs:
            grown[name] = after(name, torch.full_like(answers, value))
    if SEEN_FROM_TOKENS in inputs:
        last = inputs[SEEN_FROM_TOKENS][:, -1:]
        grown[SEEN_FROM_TOKENS] = after(SEEN_FROM_TOKENS, last.expand(-1, answers.shape[1], -1, -1))
    return {**inputs, **grown}
