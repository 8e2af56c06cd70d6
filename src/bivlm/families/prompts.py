"""From a question to the text of a prompt: by the model's chat template, or by the family's own prompt where
there is none.

    system prompt, texts, places of images ─ messages ─ chat template ─► text
                                           └ Family.prompt ──────────► text

A chat template may put the images where the model was trained to see them (LLaVA: all before the text). What
it leaves out (an image, the system prompt) is refused, not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from bivlm.errors import InputError
from bivlm.families.templates import apply_chat_template
from bivlm.types import Sample, Video

if TYPE_CHECKING:
    from bivlm.families.base import Family

# what processors call the tokens that a prompt marks an image, a video or a sound with
PLACES = ("image_token", "boi_token", "video_token", "audio_token")
IMAGE_PLACES = PLACES[:2]  # Gemma 3's templates write the second, its processor the first
VIDEO_PLACES = PLACES[2:3]
LIST_AS_TEXT = "{'type': 'text'"  # a template for plain texts shows a list of parts like this
MARK = "Q7XK"  # stands for a text, to see whether a template shows it
Form = Callable[[str], Any]  # how a message holds a text
FORMS: tuple[Form, ...] = (lambda text: [{"type": "text", "text": text}], str)


def prompt_text(processor: Any, family: Family, sample: Sample) -> str:
    """The question in the form that the model was trained on. `processor` is a tokenizer if the family reads
    no images.

    Raises InputError, naming the sample, if a text holds the token of an image's place, or if the template
    has no place for an image or for the system prompt.
    """
    check_no_places(processor, sample)
    if processor.chat_template is None:
        text = _by_family(processor, family, sample)
    else:
        text = apply_chat_template(processor, *messages_of(processor, family, sample))
    _check_shown(processor, sample, text)
    return text


def messages_of(processor: Any, family: Family, sample: Sample) -> list[dict[str, Any]]:
    """The messages for a chat template: the system prompt and the earlier turns, if there are any, and the
    question.

    Raises InputError if the template does not show the system prompt or an earlier answer.
    """
    asked = {"role": "user", "content": content_of(family, sample.parts)}
    if not sample.system and not sample.turns:
        return [asked]
    marked = replace(
        sample,
        system=sample.system and MARK,
        turns=tuple(replace(turn, answer=MARK) for turn in sample.turns),
    )
    for system, answer in product(FORMS, FORMS if sample.turns else FORMS[:1]):
        try:
            text = apply_chat_template(processor, *_earlier(family, marked, system, answer), asked)
        except InputError:  # the template wants the other form, or no system prompt
            continue
        if text.count(MARK) == bool(sample.system) + len(sample.turns) and LIST_AS_TEXT not in text:
            return [*_earlier(family, sample, system, answer), asked]
    if sample.turns:
        raise InputError(
            f"{name_of(sample)}: the model's chat template does not show the earlier turns of the"
            " conversation; give each question alone"
        )
    raise InputError(
        f"{name_of(sample)}: the model's chat template shows no system prompt; leave it out, or write it into"
        " the question"
    )


def _earlier(family: Family, sample: Sample, system: Form, answer: Form) -> list[dict[str, Any]]:
    """The messages before the question, with the system prompt and the answers in these forms."""
    messages = [{"role": "system", "content": system(sample.system)}] if sample.system else []
    for turn in sample.turns:
        messages.append({"role": "user", "content": content_of(family, turn.parts)})
        messages.append({"role": "assistant", "content": answer(turn.answer)})
    return messages


def content_of(family: Family, parts: Sequence[Any]) -> Any:
    """A message's content: a list of parts, or a plain text where the model reads nothing else."""
    if not family.reads_images:
        return "".join(part for part in parts if isinstance(part, str))
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "video" if isinstance(part, Video) else "image"}
        for part in parts
    ]


def _by_family(processor: Any, family: Family, sample: Sample) -> str:
    """The family's prompt with the question in it. Images before the question stand where the prompt says,
    the others where they stand in the question. InputError if there is no prompt, or no place in it.
    """
    if family.prompt is None:
        raise InputError(
            f"{type(processor).__name__} has no chat template, and bivlm knows no prompt for this"
            " architecture; put the model's chat template into its folder (chat_template.jinja)"
        )
    if sample.system:
        raise InputError(
            f"{name_of(sample)}: the model has no chat template, and so no place for a system prompt; leave"
            " it out, or write it into the question"
        )
    if sample.turns:
        raise InputError(
            f"{name_of(sample)}: the model has no chat template, and so no place for earlier turns; give each"
            " question alone"
        )
    if sample.videos:
        raise InputError(
            f"{name_of(sample)}: the model has no chat template, and so no place for a video; give its frames"
            " as images (--image for each)"
        )
    image = "" if not family.reads_images else family.image_place.replace("{image}", processor.image_token)
    first = next((index for index, part in enumerate(sample.parts) if isinstance(part, str)), 0)
    rest = [part if isinstance(part, str) else image for part in sample.parts[first:]]
    bos = getattr(processor, "tokenizer", processor).bos_token or ""
    return family.prompt.format(image=image * first, question="".join(rest), bos=bos)


def check_no_places(processor: Any, sample: Sample) -> None:
    """InputError, naming the sample, if a text holds the token of an image's place."""
    tokenizer = getattr(processor, "tokenizer", processor)
    tokens = dict.fromkeys(image_tokens(processor, PLACES) + image_tokens(tokenizer, PLACES))
    earlier = [text for turn in sample.turns for text in (*turn.parts, turn.answer) if isinstance(text, str)]
    for where, text in (
        ("question", sample.question),
        ("system prompt", sample.system),
        *(("earlier turn", text) for text in earlier),
    ):
        for token in tokens:
            if token in text:
                raise InputError(
                    f"{name_of(sample)}: the {where} holds {token}, the place of an image; take it out, the"
                    " image is added by itself"
                )


def _check_shown(processor: Any, sample: Sample, text: str) -> None:
    """Raises InputError if a prompt has fewer places than the sample has images, or videos."""
    for kind, names, given in (
        ("images", IMAGE_PLACES, len(sample.images)),
        ("videos", VIDEO_PLACES, len(sample.videos)),
    ):
        tokens = image_tokens(processor, names)
        shown = max((text.count(token) for token in tokens), default=0)
        if tokens and shown < given:
            raise InputError(
                f"{name_of(sample)}: {given} {kind} are given, and the model's chat template has a place for"
                f" {shown}; give fewer"
            )


def image_tokens(processor: Any, names: Sequence[str] = IMAGE_PLACES) -> list[str]:
    """The texts that mark an image's place in a prompt for `processor`."""
    found = [getattr(processor, name, None) for name in names]
    return [token for token in found if isinstance(token, str) and token]


def name_of(sample: Sample) -> str:
    """What messages call a sample: its origin, or the beginning of its question."""
    return sample.origin or f"question {sample.question[:40]!r}"


def names_of(samples: Sequence[Sample]) -> str:
    """What messages call several samples."""
    return name_of(samples[0]) if len(samples) == 1 else f"{name_of(samples[0])} … {name_of(samples[-1])}"
