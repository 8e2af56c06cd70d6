"""Texts and images in, vectors out, from any loaded model, packed or in full precision.

    items ─ Family.inputs ─► inputs ─ final_states ─► hidden states ─ pool ─► vectors of length one

The prompt is that of a question, by the model's chat template, which ends where an answer begins; "plain" is
the images' places and the text alone, as VLM2Vec was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from bivlm.data.fields import check_text
from bivlm.data.places import find_image
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError, no_such
from bivlm.eval.answer import contradictions_named, inference
from bivlm.events import SILENT, Events
from bivlm.families import Family, family_of
from bivlm.families.final_states import final_states
from bivlm.families.prompts import name_of
from bivlm.pooling import Pooling, pool
from bivlm.pruning.apply import active_pruning
from bivlm.types import Sample

PromptStyle = Literal["chat", "plain"]
Item = str | Path | Image.Image | Sample | Mapping[str, Any]
EMBEDDING = "embeddings"  # what the progress is called


def embed(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    *,
    pooling: Pooling = "last",
    prompt: PromptStyle = "chat",
    system: str = "",
    batch_size: int = 16,
    events: Events = SILENT,
) -> Tensor:
    """The vectors of texts and images, (n, d) float32 of length one, on the CPU.

    An item is a text; a path or an image; {"text": …, "image": …} with both or one of them, the image a path
    or a data URI; or a `Sample`, whose question is the text. `pooling` is "last", the state of the prompt's
    last token (VLM2Vec, arXiv 2410.05160), or "mean", as the model's card says; so is `prompt`: "chat", by
    the chat template, or "plain", images and text alone. `system` is a system prompt for every item.

    Raises InputError for no items, for an empty one, for an image that cannot be read or that the model does
    not take, and for a model that drops visual tokens.
    """
    samples = [item_sample(item, f"item {number + 1}", system) for number, item in enumerate(items)]
    _check(model, pooling, prompt, batch_size)
    if not samples:
        raise InputError("there are no items to embed; give one or more")
    family = family_of(model.config)
    if prompt == "plain":
        family, processor = plain(family, processor)
    device = next(chain(model.parameters(), model.buffers())).device
    found: dict[int, Tensor] = {}
    with inference(model), contradictions_named():
        for numbers in _batches(samples, batch_size):
            chosen = [samples[number] for number in numbers]
            images = open_visuals(chosen, family.reads_images)
            inputs = family.inputs(processor, chosen, images, model.config)
            inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
            vectors = pool(final_states(model, inputs), inputs["attention_mask"], pooling).cpu()
            found |= zip(numbers, vectors, strict=True)
            events.progress(EMBEDDING, len(found), len(samples))
    return torch.stack([found[number] for number in range(len(samples))])


def _batches(samples: Sequence[Sample], size: int) -> Iterator[list[int]]:
    """The numbers of the samples, in batches of as many images and videos each: some models refuse others."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for number, sample in enumerate(samples):
        kinds.setdefault((len(sample.images), len(sample.videos)), []).append(number)
    for numbers in kinds.values():
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def _check(model: Any, pooling: str, prompt: str, batch_size: int) -> None:
    if pooling not in get_args(Pooling):
        raise no_such("pooling", pooling, get_args(Pooling))
    if prompt not in get_args(PromptStyle):
        raise no_such("prompt", prompt, get_args(PromptStyle))
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; give 1 or more")
    active = active_pruning(model)
    if active is not None and active.pruning.keep < 1:
        raise InputError(
            "the model drops visual tokens, and an embedding reads all of them; load it with pruning=None"
        )


def item_sample(item: Item, origin: str, system: str = "") -> Sample:
    """The sample of an item, as `embed` takes it. Raises InputError, naming `origin`, for an item without a
    text and without an image.
    """
    if isinstance(item, str):
        return Sample(None, check_text(item, "the text", origin), origin=origin, system=system)
    if isinstance(item, Path | Image.Image):
        return Sample(item, "", origin=origin, system=system)
    if isinstance(item, Mapping):
        image, text = item.get("image"), item.get("text")
        if isinstance(image, str):
            image = find_image(image, origin)
        question = "" if text is None else check_text(text, "the text", origin)
        item = Sample(image, question, origin=origin)
    if not item.visuals and not item.question.strip():
        raise InputError(f"{name_of(item) or origin}: there is no text and no image; give one of them")
    return replace(item, system=item.system or system)


def plain(family: Family, processor: Any) -> tuple[Family, Any]:
    """The family and the processor with which a prompt is the images' places and the text alone."""
    bare = copy.copy(processor)
    bare.chat_template = None
    return replace(family, prompt="{image}{question}"), bare
