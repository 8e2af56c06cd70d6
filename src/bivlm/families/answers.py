"""Answers as tokens: what a given answer looks like after its prompt, and which tokens end an answer."""

from __future__ import annotations

from typing import Any

from bivlm.errors import InputError, cut
from bivlm.families.base import Family
from bivlm.families.processors import tokenizer_of
from bivlm.families.prompts import content_of, image_tokens, messages_of, prompt_text
from bivlm.families.templates import apply_chat_template
from bivlm.families.typed import Reader, as_text, check_read
from bivlm.types import Sample

MOST_TOKENS = 1 << 31  # beyond every vocabulary


def answer_tokens(family: Family, model: Any, processor: Any, sample: Sample) -> list[int]:
    """The tokens of a sample's most frequent answer as they follow its prompt, up to and with the one that
    ends it.

    The text is that of the conversation in the chat template. Where the template cannot show an answer, or
    shows it otherwise than after the prompt, and for a model without a template, the answer follows after a
    space, unless the prompt ends with white space. It is tokenized together with the prompt's last character,
    because tokenizers treat the beginning of a text in their own way. Raises InputError for an answer without
    tokens, and for end-of-sequence settings that are no token ids.
    """
    processor, [sample] = as_text(processor, [sample])
    tokenizer = tokenizer_of(processor)
    prompt = prompt_text(processor, family, sample)
    last = tokenizer.last_sign(prompt) if isinstance(tokenizer, Reader) else prompt[-1:]
    text = _continuation(family, processor, sample, prompt)
    before, whole = _ids(tokenizer, last), _ids(tokenizer, last + text)
    ids = whole[len(before) :] if whole[: len(before)] == before else _ids(tokenizer, text)
    ends = end_tokens(model, processor)
    check_read(processor, [text])
    first = next((place for place, token in enumerate(ids) if token in ends), None)
    if first is not None:
        return ids[: first + 1]
    own = tokenizer.eos_token_id
    ids += [own if own in ends else ends[0]] if ends else []
    if not ids:
        raise InputError(f"{sample.origin or 'a sample'}: the answer has no tokens; give another")
    return ids


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _continuation(family: Family, processor: Any, sample: Sample, prompt: str) -> str:
    """The text of the most frequent answer after the prompt's text."""
    answer = max(sample.answers, key=sample.answers.count).strip()
    plain = answer if not prompt or prompt[-1].isspace() else f" {answer}"
    if processor.chat_template is None:
        return plain
    said = {"role": "assistant", "content": content_of(family, [answer])}
    try:
        whole = apply_chat_template(processor, *messages_of(processor, family, sample), said)
    except InputError:
        return plain
    shown = whole.removeprefix(prompt)
    if shown == whole or answer not in shown or any(token in shown for token in image_tokens(processor)):
        return plain
    return shown


def end_tokens(model: Any, processor: Any) -> list[int]:
    """The ids that end an answer: the checkpoint's generation settings name them (chat models have several),
    else its config, else the tokenizer. Raises InputError if they are no ids.
    """
    named = (
        model.generation_config.eos_token_id,
        model.config.get_text_config().eos_token_id,
        tokenizer_of(processor).eos_token_id,
    )
    found = next((ids for ids in named if ids is not None), [])
    ids = [found] if isinstance(found, int) else found
    if not isinstance(ids, list | tuple) or not all(
        type(one) is int and 0 <= one < MOST_TOKENS for one in ids
    ):
        raise InputError(
            f"eos_token_id is {cut(repr(found))} in the model's generation settings, config or tokenizer;"
            " needs token ids"
        )
    return list(ids)
