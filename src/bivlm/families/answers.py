"""Answers as tokens: what a given answer looks like after its prompt, and which tokens end an answer."""

from __future__ import annotations

from typing import Any

from bivlm.errors import InputError, cut
from bivlm.families.base import Family
from bivlm.families.inputs import prompt_text as prompt_with_image
from bivlm.families.processors import tokenizer_of
from bivlm.families.templates import apply_chat_template
from bivlm.families.text_inputs import prompt_text as prompt_without_image
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
    tokenizer = tokenizer_of(processor)
    prompt = _prompt(family, processor, sample)
    last, text = prompt[-1:], _continuation(family, processor, sample, prompt)
    before, whole = _ids(tokenizer, last), _ids(tokenizer, last + text)
    ids = whole[len(before) :] if whole[: len(before)] == before else _ids(tokenizer, text)
    ends = end_tokens(model, processor)
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
    content: Any = [{"type": "text", "text": answer}] if family.reads_images else answer
    said = {"role": "assistant", "content": content}
    try:
        whole = apply_chat_template(processor, _question(family, sample), said)
    except InputError:
        return plain
    shown = whole.removeprefix(prompt)
    image = getattr(processor, "image_token", None)
    if shown == whole or answer not in shown or (image is not None and image in shown):
        return plain
    return shown


def _prompt(family: Family, processor: Any, sample: Sample) -> str:
    text_of = prompt_with_image if family.reads_images else prompt_without_image
    return text_of(processor, family.prompt, sample)


def _question(family: Family, sample: Sample) -> dict[str, Any]:
    parts = [{"type": "image"}, {"type": "text", "text": sample.question}]
    return {"role": "user", "content": parts if family.reads_images else sample.question}


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
