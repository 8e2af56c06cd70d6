"""Questions in, answers out: greedy decoding of a batch, independent of the checkpoint's generation settings.

    samples ─ open_visuals, Family.inputs ─► inputs ─ generate ─► tokens (n, a), mask (n, a) ─► texts

Prompts are padded on the left, so a row of a batch gives the same result as alone, up to floating point. The
ids that mark the place of an image or a video are never generated: they are no answer, and the models refuse
to read them again.

The model is left as it is. Threads that ask the same model take turns: models and pruning keep the state of
the prompt they read (rotary offsets, dropped tokens) on the model itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from bivlm.data.fields import check_text
from bivlm.data.places import find_image, find_video
from bivlm.data.samples import check_frames
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError, cut
from bivlm.families import Family, family_of, tokenizer_of
from bivlm.families.answers import end_tokens
from bivlm.families.vision_only import check_answers_questions
from bivlm.pruning.apply import check_prunable
from bivlm.types import MOST_FRAMES, Sample, Video

Named = Path | str | Image.Image  # an image, or the name of one
Filmed = Video | Path | str  # a video, or the name of one
_turns: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # an RLock for every model that was asked
_turns_lock = Lock()


@dataclass(frozen=True)
class Answers:
    """The answers of a batch of n questions, a tokens at most.

    `tokens` (n, a) are ids; `mask` (n, a) is True up to the end-of-sequence token, that one included;
    `non_finite` counts the answer tokens that were chosen from logits with a NaN or an infinity among them;
    `log_probabilities` (n, a) are those of the tokens where the model chose them itself.
    """

    tokens: Tensor
    mask: Tensor
    non_finite: int
    log_probabilities: Tensor | None = None


def answer(
    model: Any,
    processor: Any,
    image: Named | Sequence[Named] | None,
    question: str,
    *,
    video: Filmed | Sequence[Filmed] | None = None,
    max_frames: int = MOST_FRAMES,
    system: str = "",
    max_new_tokens: int = 64,
) -> str:
    """The model's answer to one question about an image, several images in their order, or none. A text names
    a file, or is a data URI. `system` is a system prompt.

    `video` is a video, or several, which come after the images: a file, a folder of frames, or a `Video`. Of
    a file or a folder `max_frames` frames are read at most.

    May be called from several threads; those that ask the same model take turns. Raises InputError for an
    image, a video or a question that cannot be read, or that the model does not take.
    """
    sample = sample_to_ask(image, question, video=video, max_frames=max_frames, system=system)
    return answer_batch(model, processor, family_of(model.config), [sample], max_new_tokens=max_new_tokens)[0]


def sample_to_ask(
    image: Named | Sequence[Named] | None,
    question: str,
    *,
    video: Filmed | Sequence[Filmed] | None = None,
    max_frames: int = MOST_FRAMES,
    system: str = "",
) -> Sample:
    """The sample of one question, as `answer` takes it. Raises InputError for a name that leads to no image
    or video.
    """
    several = [] if image is None else [image] if isinstance(image, str | Path | Image.Image) else image
    found = [find_image(one, "the image given") if isinstance(one, str) else one for one in several]
    filmed = [] if video is None else [video] if isinstance(video, Video | str | Path) else video
    check_frames(max_frames)
    videos = [
        one if isinstance(one, Video) else find_video(str(one), "the video given", most=max_frames)
        for one in filmed
    ]
    return Sample((*found, *videos), question, system=system)


def answer_batch(
    model: Any, processor: Any, family: Family, samples: Sequence[Sample], *, max_new_tokens: int
) -> list[str]:
    """The answers to a batch of questions, without special tokens and surrounding spaces. Raises InputError
    as `prepare` does.
    """
    with inference(model):
        inputs = prepare(model, processor, family, samples)
        return texts(model, processor, generate(model, processor, family, inputs, max_new_tokens))


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No gradients, and the model in evaluation mode; afterwards every module has its previous mode. Only one
    thread at a time has a model's turn.
    """
    with _turn(model):
        training = [module for module in model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True


def _turn(model: nn.Module) -> Any:
    """The lock of a model, the same for every thread."""
    with _turns_lock:
        return _turns.setdefault(model, RLock())


def prepare(model: Any, processor: Any, family: Family, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """The model's inputs for a batch of questions, on its device. Raises InputError, naming the sample, if it
    cannot be read or asked, for a vision-only model, and for a model without any parameter.
    """
    check_answers_questions(family)
    check_prunable(model, samples)
    if model.get_output_embeddings() is None:
        raise InputError("the model has no language head, and so no answers; `bivlm embed` gives its vectors")
    for sample in samples:
        check_text(sample.question, "the question", sample.origin)
        if sample.system:
            check_text(sample.system, "the system prompt", sample.origin)
    inputs = family.inputs(processor, samples, open_visuals(samples, family.reads_images), model.config)
    if next(model.parameters(), None) is None:  # an OLMo: its norms have no weights
        raise InputError(
            "everything in the model is packed, and transformers does not generate with a model that has no"
            " parameter left; pack it again without embeddings"
        )
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def generate(
    model: Any, processor: Any, family: Family, inputs: dict[str, Tensor], max_new_tokens: int
) -> Answers:
    """Greedy decoding after the prompts: at each step the likeliest token, until end-of-sequence or
    `max_new_tokens`.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; an answer takes 1 token or more")
    ends = end_tokens(model, processor)
    padding = tokenizer_of(processor).pad_token_id
    plain = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=padding if padding is not None else [*ends, 0][0],
    )
    watch = _Watch(family.visual_tokens(model.config))
    view = with_settings(model, plain)
    with contradictions_named():
        sequences = view.generate(**inputs, logits_processor=LogitsProcessorList([watch]))
    tokens = sequences[:, inputs["input_ids"].shape[1] :]
    ended = torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype, device=tokens.device))
    mask = ended.cumsum(1) - ended.long() == 0
    non_finite = int((torch.stack(watch.non_finite, dim=1) & mask).sum())
    return Answers(tokens, mask, non_finite, torch.stack(watch.log_probabilities, dim=1))


@contextmanager
def contradictions_named() -> Iterator[None]:
    """Turn the errors of a model that cannot read what its processor made into InputError."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, IndexError) as error:
        raise InputError(
            f"the model cannot read what its processor made ({cut(str(error), 200)}); check that model and"
            " processor belong together, and the numbers in processor_config.json"
        ) from error


def texts(model: Any, processor: Any, answers: Answers) -> list[str]:
    """The answers in words, without end-of-sequence and other special tokens, and without outer spaces."""
    ends = end_tokens(model, processor)
    rows = [tokens[mask].tolist() for tokens, mask in zip(answers.tokens, answers.mask, strict=True)]
    words = [
        [token for token in row if token not in ends] for row in rows
    ]  # an end that the tokenizer does not count as special goes too
    return [tokenizer_of(processor).decode(row, skip_special_tokens=True).strip() for row in words]


def with_settings(model: Any, config: GenerationConfig) -> Any:
    """The same model, weights and hooks included, with `config` in place of the checkpoint's own generation
    settings; `model` keeps those.

    Passing `config` to `generate` is not enough: its settings that are None (penalties, forbidden words, a
    temperature) would be taken from the checkpoint.
    """
    view = copy.copy(getattr(model, "_orig_mod", model))  # `generate` of a compiled model is the original's
    view.generation_config = config
    return view


class _Watch(LogitsProcessor):
    """Records, step by step, which rows have logits that are not finite, and how probable the likeliest token
    is; and prevents the choice of some tokens, if the head has them at all (Molmo 2's has none for the visual
    token).
    """

    def __init__(self, forbidden: Sequence[int]) -> None:
        self.forbidden = forbidden
        self.non_finite: list[Tensor] = []  # one (n,) for each step
        self.log_probabilities: list[Tensor] = []  # one (n,) for each step

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.non_finite.append(~scores.isfinite().all(dim=-1))
        found = [token for token in self.forbidden if token < scores.shape[1]]
        if found:
            places = torch.tensor(found, device=scores.device)
            scores = cast(torch.FloatTensor, scores.index_fill(1, places, -torch.inf))
        self.log_probabilities.append(scores.amax(dim=-1) - scores.logsumexp(dim=-1))
        return scores
