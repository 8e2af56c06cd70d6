"""Calibration samples as inputs of the model: whole prompts with their answers, one by one, never truncated.

    question ─► prompt ─┬─► input of the model; its targets are the answer's tokens and the end of the answer
    answer ─────────────┘

An answer that the data does not give is the full-precision model's own, by greedy decoding (`answered`); it
is needed only where the answers matter: for gradients and for tuning the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bivlm.checkpoint.source import SourceModel
from bivlm.crew import ALONE, Crew
from bivlm.data.videos import open_visuals
from bivlm.events import SILENT, Events
from bivlm.families import load_processor, processor_of
from bivlm.families.answers import answer_tokens, end_tokens
from bivlm.families.last_logits import keeping, last_logits
from bivlm.families.marked import cast_pixels
from bivlm.families.pixels import UNBOUNDED, PixelBounds
from bivlm.types import Sample

ANSWERING = "own answers"  # what the progress of `answered` is called
MOST_TOKENS = 32  # of an own answer


@dataclass(frozen=True)
class CalibrationInput:
    """One sample as input of the model: its input tensors (batch of one), the mask (t,) of the visual tokens
    in it, and the mask (t,) of its targets: the tokens whose prediction by the model counts. None is every
    text token but the first: a text that is no question.
    """

    tensors: Mapping[str, Tensor]
    visual: Tensor
    target_mask: Tensor | None = None

    @property
    def has_image(self) -> bool:
        """Whether it holds more than the ids and masks of tokens: pixels, which are no integers."""
        return any(tensor.is_floating_point() for tensor in self.tensors.values())

    @property
    def targets(self) -> Tensor:
        """The mask (t,) of the tokens whose prediction counts; the first token is never one."""
        mask = ~self.visual if self.target_mask is None else self.target_mask.clone()
        mask[0] = False
        return mask

    def predicting(self) -> tuple[int, Tensor]:
        """How many of the last positions have the logits that predict the targets, and which of those do,
        (targets,) int64.
        """
        positions = self.targets.nonzero()[:, 0] - 1
        first = int(positions.min())
        return len(self.targets) - first, positions - first

    @property
    def labels(self) -> Tensor:
        """The ids of the targets, (targets,) int64."""
        return self.tensors["input_ids"][0, self.targets]


def calibration_inputs(
    source: SourceModel, samples: Sequence[Sample | CalibrationInput], pixels: PixelBounds = UNBOUNDED
) -> list[CalibrationInput]:
    """The samples as inputs of `source`, their images within `pixels`; samples that are inputs already are
    not changed.

    Raises InputError, naming the sample, if it cannot be read or asked.
    """
    if all(isinstance(sample, CalibrationInput) for sample in samples):
        return [sample for sample in samples if isinstance(sample, CalibrationInput)]
    processor = processor_of(source.folder, source.family, pixels, source.trust_remote_code)
    return [
        sample if isinstance(sample, CalibrationInput) else calibration_input(source, processor, sample)
        for sample in samples
    ]


def calibration_input(source: SourceModel, processor: Any, sample: Sample) -> CalibrationInput:
    """One sample with its most frequent answer, if it has any; pixels in the model's dtype. (What has one
    dim, the times of frames, stays as exact as it is.)
    """
    family = source.family
    tensors = family.inputs(processor, [sample], open_visuals([sample], family.reads_images), source.config)
    if not family.answers:  # one visual token stands for all, and nothing is predicted
        seen = torch.ones(1, dtype=torch.bool, device="cpu")
        return CalibrationInput(cast_pixels(tensors, source.dtype), seen, torch.zeros_like(seen))
    visual = family.visual_mask(source.config, tensors["input_ids"])[0]
    cast = {
        name: tensor.to(source.dtype) if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        for name, tensor in tensors.items()
    }
    prompt = CalibrationInput(cast, visual, torch.zeros_like(visual))
    if not any(answer.strip() for answer in sample.answers):
        return prompt
    return with_answer(source, prompt, answer_tokens(family, source.model, processor, sample))


def with_answer(source: SourceModel, prompt: CalibrationInput, answer: Sequence[int]) -> CalibrationInput:
    """A prompt with the tokens of an answer after it, which are its targets."""
    ids = torch.tensor([list(answer)], dtype=torch.int64, device="cpu")
    grown = source.family.extend(prompt.tensors, ids, torch.ones_like(ids))
    old, new = torch.zeros_like(prompt.visual), torch.zeros_like(ids[0], dtype=torch.bool)
    return CalibrationInput(grown, torch.cat([prompt.visual, new]), torch.cat([old, ~new]))


def answered(
    source: SourceModel,
    inputs: Sequence[CalibrationInput],
    events: Events = SILENT,
    crew: Crew = ALONE,
    numbers: Sequence[int] | None = None,
) -> list[CalibrationInput]:
    """The inputs, each with targets, or those with these `numbers`: where the data gave no answer, the answer
    is the full-precision model's own, by greedy decoding, MOST_TOKENS at most. An empty one is the end of the
    answer alone. The ranks of a `crew` answer for their own samples.

    This needs the whole model in memory, unless all of these inputs have targets.
    """
    wanted = range(len(inputs)) if numbers is None else numbers
    asked = [number for number in wanted if not bool(inputs[number].targets.any())]
    if not asked:
        return list(inputs)
    processor = load_processor(
        source.folder, source.family.reads_images, trust_remote_code=source.trust_remote_code
    )
    ends = end_tokens(source.model, processor)
    own: dict[int, list[int]] = {}
    with source.surroundings((), head=True):
        for done, number in enumerate(asked, start=1):
            if crew.owns(number):
                own[number] = _greedy(source, inputs[number], ends)
            events.progress(ANSWERING, done, len(asked))
    answers = {number: answer for each in crew.gather(own) for number, answer in each.items()}
    return [
        with_answer(source, sample, answers[number]) if number in answers else sample
        for number, sample in enumerate(inputs)
    ]


@torch.no_grad()
def _greedy(source: SourceModel, prompt: CalibrationInput, ends: Sequence[int]) -> list[int]:
    """The likeliest token after the prompt, and so on, until an answer ends; never an image's place."""
    forbidden = source.family.visual_tokens(source.config)
    answer: list[int] = []
    while len(answer) < MOST_TOKENS and not (answer and answer[-1] in ends):
        grown = with_answer(source, prompt, answer).tensors if answer else prompt.tensors
        output = source.model(**grown, use_cache=False, **keeping(source.model, 1))
        logits = last_logits(output, 1)[0, -1]
        logits[[token for token in forbidden if token < len(logits)]] = -torch.inf
        answer.append(int(logits.argmax()))
    return answer
