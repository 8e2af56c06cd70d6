"""The lessons of a training: every sample as tensors on the disk, ready for the model.

    sample ─ the model's inputs, batch of one
           ─ the answer's tokens: given by people, or the teacher's own greedy ones
           ─ with a teacher: its logits at the tokens of the answer

    FOLDER/lesson-00012-1a2b3c4d.safetensors      the last eight digits are the checksum of its content

A lesson is made once, so an interrupted training neither asks the teacher again nor prepares images again,
and memory holds one lesson at a time. A file that is damaged counts as not made.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bivlm.checkpoint.shards import checksum, read_entries, read_tensors, write_shard
from bivlm.data.videos import open_visuals
from bivlm.errors import InputError
from bivlm.eval.answer import Answers, generate, inference, prepare
from bivlm.eval.fidelity import answer_logits
from bivlm.events import Events
from bivlm.families import Family, family_of
from bivlm.families.answers import answer_tokens
from bivlm.types import Sample

INPUT, TOKENS, LOGITS = "input.", "tokens", "logits"


@dataclass(frozen=True)
class Lesson:
    """One sample: `inputs` of the prompt, `tokens` (1, a) of the answer, and the teacher's `logits` (a,
    vocabulary) that predict them, None without a teacher.
    """

    inputs: Mapping[str, Tensor]
    tokens: Tensor
    logits: Tensor | None


class LessonFolder:
    """Lessons on the disk, by their numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, number: int) -> Lesson:
        """InputError if the lesson is missing or damaged."""
        path = self._path(number)
        if path is None:
            raise InputError(f"{self.folder} lacks the lesson {number}; run the same command again")
        tensors = read_tensors(read_entries([path]).values())
        inputs = {key.removeprefix(INPUT): tensor for key, tensor in tensors.items() if key.startswith(INPUT)}
        return Lesson(inputs, tensors[TOKENS], tensors.get(LOGITS))

    def write(self, number: int, lesson: Lesson) -> None:
        tensors = {INPUT + name: tensor for name, tensor in lesson.inputs.items()} | {TOKENS: lesson.tokens}
        if lesson.logits is not None:
            tensors[LOGITS] = lesson.logits
        tensors = {key: tensor.cpu().clone() for key, tensor in tensors.items()}
        write_shard(self.folder / f"{_stem(number)}-{_content_checksum(tensors)}.safetensors", tensors)

    def has(self, number: int) -> bool:
        """Whether a lesson is there and undamaged; a damaged one is deleted."""
        path = self._path(number)
        if path is None:
            return False
        try:
            tensors = read_tensors(read_entries([path]).values())
            undamaged = path.stem.endswith(_content_checksum(tensors))
        except InputError:
            undamaged = False
        if not undamaged:
            path.unlink()
        return undamaged

    def _path(self, number: int) -> Path | None:
        return next(self.folder.glob(f"{_stem(number)}-*.safetensors"), None)


def _stem(number: int) -> str:
    return f"lesson-{number:05d}"


def _content_checksum(tensors: Mapping[str, Tensor]) -> str:
    text = " ".join(f"{key}={checksum(tensors[key])}" for key in sorted(tensors))
    return f"{zlib.crc32(text.encode()):08x}"


def lessons_from_answers(
    lessons: LessonFolder, model: Any, processor: Any, samples: Sequence[Sample], events: Events
) -> None:
    """Make the lessons that are missing from the samples' own answers. Raises InputError, naming the sample,
    if it cannot be read or asked.
    """
    family = family_of(model.config)
    for number, sample in enumerate(samples):
        if not lessons.has(number):
            inputs = prepare(model, processor, family, [sample])
            tokens = torch.tensor([answer_tokens(family, model, processor, sample)], dtype=torch.int64)
            lessons.write(number, Lesson(inputs, tokens, None))
        events.progress("lessons", number + 1, len(samples))


def lessons_from_teacher(
    lessons: LessonFolder,
    teacher: tuple[Any, Any],
    pupil: tuple[Any, Any],
    samples: Sequence[Sample],
    most_tokens: int | None,
    events: Events,
) -> None:
    """Make the lessons that are missing with the logits of a teacher, a model and its processor, on its own
    greedy answers of at most `most_tokens`, or for None on the samples' answers.

    `pupil` is the configuration and the processor of the model that will learn. Raises InputError if the two
    do not read the same tokens, and, naming the sample, for what cannot be read or asked.
    """
    model, processor = teacher
    config, own_processor = pupil
    family, own = family_of(model.config), family_of(config)
    with inference(model):
        for number, sample in enumerate(samples):
            if not lessons.has(number):
                inputs = prepare(model, processor, family, [sample])
                images = open_visuals([sample], own.reads_images)
                own_inputs = own.inputs(own_processor, [sample], images, config)
                _check_same_prompt(inputs, own_inputs)
                answers = _answers(model, processor, family, sample, inputs, most_tokens)
                logits = answer_logits(model, family, inputs, answers)
                lessons.write(number, Lesson(own_inputs, answers.tokens[answers.mask][None], logits))
            events.progress("lessons", number + 1, len(samples))


def _answers(
    model: Any,
    processor: Any,
    family: Family,
    sample: Sample,
    inputs: dict[str, Tensor],
    most_tokens: int | None,
) -> Answers:
    if most_tokens is not None:
        return generate(model, processor, family, inputs, most_tokens)
    tokens = torch.tensor([answer_tokens(family, model, processor, sample)], dtype=torch.int64)
    return Answers(tokens.to(model.device), torch.ones_like(tokens, dtype=torch.bool), 0)


def _check_same_prompt(teacher: Mapping[str, Tensor], pupil: Mapping[str, Tensor]) -> None:
    if not torch.equal(teacher["input_ids"].cpu(), pupil["input_ids"].cpu()):
        raise InputError(
            "the teacher has another tokenizer or processor than the packed model: the same question gives"
            " other tokens; give the model from which it was packed"
        )
