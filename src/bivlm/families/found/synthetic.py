"""Inputs for a small model without its processor: a question, another image, another question.

The pixels come in the few forms that processors make, chosen by the arguments of the model's forward; how
many visual tokens they become, the model says itself. The first form that it accepts is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.errors import cut
from bivlm.families.found.fields import TOKEN
from bivlm.families.found.pixels import pixel_forms, two_sizes
from bivlm.families.found.shrink import nodes
from bivlm.families.found.tracing import run
from bivlm.trees import first_tensor

IMAGE_TOKENS = (
    "image_token_id",
    "image_token_index",
    "image_patch_id",
    "media_placeholder_token_id",
    "video_token_index",
)
ENCODERS = ("get_image_features", "get_video_features")  # pixels in, visual tokens out
QFORMER_INPUTS = ("qformer_input_ids",)  # of the text that a Q-Former reads with the image
TYPES = ("mm_token_type_ids", "token_type_ids")
FEATURES_NEEDED = re.compile(r"features:? ?(?:torch\.Size\()?\[?(\d+)")


@dataclass(frozen=True)
class Three:
    """The inputs of three forward passes; and more of them, each about two images of different sizes, where
    such inputs are known.
    """

    question: dict[str, Any]
    other_image: dict[str, Any] | None
    other_question: dict[str, Any]
    two_images: tuple[dict[str, Any], ...] = ()


class NoInputs(Exception):
    """No form of inputs is accepted; the message is the model's last word."""


def synthetic(model: Any) -> Three:
    """Three inputs that the model accepts. Raises NoInputs."""
    said: list[str] = []
    pixels: list[dict[str, Any]] = [*pixel_forms(model)] if _takes_pixels(model) else [{}]
    for form in pixels:
        for count in _token_counts(model, form):
            if isinstance(count, str):
                said.append(count)
                continue
            inputs = _with_text(model, form, count, shift=0)
            other = {name: _redrawn(name, value) for name, value in inputs.items()} if form else None
            error = _refusal(model, inputs, other)
            if error is None:
                return Three(inputs, other, _with_text(model, form, count, shift=1), _two_images(model, form))
            said.append(error)
    raise NoInputs(said[0] if said else "its forward takes no pixels that bivlm knows")


def _two_images(model: Any, form: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Two images of different sizes in one prompt, if the form of the pixels tells how they are given."""
    for two, share in two_sizes(form):
        for count in _token_counts(model, two):
            if isinstance(count, int) and count:
                inputs = _with_text(model, two, count, shift=0, first=int(count * share))
                if _refusal(model, inputs) is None:
                    return (inputs,)
    return ()


def _takes_pixels(model: Any) -> bool:
    named = signature(model.forward).parameters
    return any("pixel" in name or "patches" in name for name in named)


def _refusal(model: Any, inputs: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> str | None:
    """Why the model does not take the inputs, or sees no difference to others; None if it does."""
    try:
        logits = run(model, inputs)
        if other is None or logits is None:
            return None
        changed = run(model, other)
    except Exception as error:  # a model may raise anything for inputs of another form
        return cut(f"{type(error).__name__}: {error}".partition("\n")[0], 200)
    same = changed is not None and torch.equal(logits, changed)
    return "another image gives the same logits" if same else None


def _redrawn(name: str, value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and ("pixel" in name or "patches" in name):
        return torch.rand(value.shape, generator=torch.Generator().manual_seed(7))
    return value


def image_token(config: PretrainedConfig) -> int | None:
    """The token of an image as a config names it."""
    found = (getattr(config, name, None) for name in IMAGE_TOKENS)
    return next((token for token in found if isinstance(token, int)), None)


def _token_counts(model: Any, form: Mapping[str, Any]) -> Iterator[int | str]:
    """How many visual tokens the pixels become: what the model computes, or what its refusal says; at last
    none. A text is why it cannot be known.
    """
    if not form or image_token(model.config) is None:
        yield 0
        return
    counted = None
    features = next(
        (
            encode
            for owner in (model, getattr(model, "model", None))
            for name in ENCODERS
            if (encode := getattr(owner, name, None)) is not None
        ),
        None,
    )
    if features is not None:
        named = signature(features).parameters
        loose = any(one.kind is one.VAR_KEYWORD for one in named.values())
        try:
            with torch.inference_mode():
                given = {name: one for name, one in form.items() if name in named or loose}
                text = _with_text(model, form, 1, shift=0)
                given |= {name: text[name] for name in QFORMER_INPUTS if name in named and name in text}
                made = features(**given)
            counted = _rows(getattr(made, "pooler_output", made))
        except Exception as error:  # as above
            yield cut(f"{type(error).__name__}: {error}".partition("\n")[0], 200)
    if counted:
        yield counted
    error = _refusal(model, _with_text(model, form, 1, shift=0))
    told = None if error is None else FEATURES_NEEDED.search(error)
    if told is not None:
        yield int(told.group(1))
    if error is None:
        yield 1
    yield 0


def _rows(features: Any) -> int | None:
    """The number of feature vectors in what a model computes from pixels."""
    if isinstance(features, list | tuple) and features and all(isinstance(one, Tensor) for one in features):
        return sum(one.numel() // one.shape[-1] for one in features)
    tensor = first_tensor(features)
    return None if tensor is None else tensor.numel() // tensor.shape[-1]


def _ordinary(config: PretrainedConfig, count: int) -> list[int]:
    """Tokens that are not special."""
    special: set[int] = set()
    for node in nodes(config):
        for name, value in vars(node).items():
            if TOKEN.search(name):
                special |= {*value} if isinstance(value, list | tuple) else {value}
    return [token for token in range(3, 4 * count + 64) if token not in special][:count]


def _with_text(model: Any, form: Mapping[str, Any], count: int, shift: int, first: int = 0) -> dict[str, Any]:
    """Pixels and a prompt with `count` visual tokens, of which `first` stand apart from the others; another
    `shift` is another question.
    """
    config, named = model.config, signature(model.forward).parameters
    words = _ordinary(config, 24)
    before, after = words[0:3], words[4 + 8 * shift : 10 + 8 * shift]
    token = image_token(config)
    visual = [] if token is None else [token] * count
    apart = [*visual[:first], words[3]] if first else []
    ids = torch.tensor([[*before, *apart, *visual[first:], *after]])
    inputs = {**form}
    if "input_ids" in named:
        inputs["input_ids"] = ids
        inputs["attention_mask"] = torch.ones_like(ids)
    for name in TYPES:
        if name in named and token is not None:
            inputs[name] = (ids == token).long()
    if "cross_attention_mask" in named and "aspect_ratio_ids" in form:
        tiles = form["pixel_values"].shape[2]
        inputs["cross_attention_mask"] = torch.ones(1, ids.shape[1], 1, tiles, dtype=torch.long)
    if "decoder_input_ids" in named:
        inputs["decoder_input_ids"] = torch.tensor([after])
    for name in QFORMER_INPUTS:
        if name in named:
            inputs[name] = torch.tensor([after])
    if "bbox" in named:
        inputs["bbox"] = torch.rand(1, ids.shape[1], 4)
    pixels = form.get("pixel_values")
    if pixels is not None and pixels.ndim == 5:  # (prompts, images, channels, height, width)
        masks = {
            "pixel_attention_mask": torch.ones(1, pixels.shape[1], *pixels.shape[3:], dtype=torch.long),
            "image_attention_mask": torch.ones(1, ids.shape[1], pixels.shape[1]),
        }
        inputs |= {name: mask for name, mask in masks.items() if name in named}
    latents = getattr(config, "latent_query_num", None)
    if "image_embeds_position_mask" in named and latents:  # places of the image instead of a token for it
        places = torch.zeros(1, latents + ids.shape[1], dtype=torch.long)
        places[:, 1 : latents + 1] = 1
        filled = torch.tensor([words[-1:] * latents])
        inputs["input_ids"] = torch.cat([ids[:, :1], filled, ids[:, 1:]], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["image_embeds_position_mask"] = places
    return inputs
