"""From questions to the inputs of a language model without vision parts: the tokenizer is its processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bivlm.errors import InputError
from bivlm.families.inputs import check_length
from bivlm.families.processors import refusals_named
from bivlm.families.prompts import check_no_places, name_of, names_of, prompt_text
from bivlm.families.typed import as_text, check_read
from bivlm.types import Sample

if TYPE_CHECKING:
    from bivlm.families.base import Family


def build(tokenizer: Any, family: Family, samples: Sequence[Sample], limit: int | None) -> dict[str, Tensor]:
    """The implementation of `Family.inputs`: prompts padded on the left. `limit` is the most tokens a prompt
    may have.

    Raises InputError, naming the sample, if it has an image or is too long.
    """
    seen = next((sample for sample in samples if sample.visuals), None)
    if seen is not None:
        raise InputError(
            f"{name_of(seen)}: the model is a language model and reads no image or video; leave it out"
        )
    if len(samples) > 1 and tokenizer.pad_token is None:
        raise InputError(
            "the tokenizer has no pad_token, so questions of different lengths cannot share a batch; use a"
            " batch size of 1"
        )
    for sample in samples:
        check_no_places(tokenizer, sample)
    tokenizer, samples = as_text(tokenizer, samples)
    texts = [prompt_text(tokenizer, family, sample) for sample in samples]
    bos = tokenizer.bos_token
    with refusals_named(names_of(samples)):
        batch = tokenizer(
            texts,
            padding=len(samples) > 1,
            padding_side="left",
            truncation=False,
            add_special_tokens=bos is None or not all(text.startswith(bos) for text in texts),
            return_tensors="pt",
        )
    check_read(tokenizer, texts)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    check_length(inputs["attention_mask"], samples, limit)
    return inputs
