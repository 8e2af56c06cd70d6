"""How far a model is from a reference: KL divergence and top-1 agreement of the answer tokens. They need no
labels and show small differences.

    reference pass:  samples ─ greedy answers, their ends included ─ prompt + answer ─► logits (k, vocabulary)
                     of the k answer tokens, kept
    model pass:      prompt + the same answer ─► logits (k, vocabulary), compared with the kept ones
                     (divergence.py)

Both are compared at the reference's tokens, so an early difference does not make all later tokens
incomparable. The two models need not be in memory together: the reference's answers and logits are written to
a folder, one file per batch, or, for small sets, stay in memory. Logits are kept in the dtype in which the
model computed them, without loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bivlm.errors import InputError
from bivlm.eval.answer import Answers, generate, inference, prepare
from bivlm.eval.divergence import Fidelity, distances
from bivlm.events import SILENT, Events
from bivlm.families import Family, family_of
from bivlm.families.last_logits import keeping, last_logits
from bivlm.types import Sample

INDEX = "reference.json"  # written last: a folder without it is not whole


@dataclass(frozen=True)
class ReferenceBatch:
    """The reference's answers to a batch of n questions.

    `prompts` (n, t) are the ids of the questions, `tokens` and `mask` (n, a) the answers. `logits` (k,
    vocabulary) predict the tokens where the mask is True, row by row.
    """

    prompts: Tensor
    tokens: Tensor
    mask: Tensor
    logits: Tensor


@dataclass(frozen=True)
class ReferenceAnswers:
    """The reference's answers to a list of samples, batch by batch; `batches` are in memory, or in the folder
    that holds their files. `max_new_tokens` is how long they could be, where it is known.
    """

    sizes: tuple[int, ...]
    batches: tuple[ReferenceBatch, ...] | Path
    max_new_tokens: int | None = None

    @classmethod
    def open(cls, folder: Path) -> ReferenceAnswers:
        """The answers that `collect_reference` wrote. Raises InputError if the folder does not hold a
        complete set.
        """
        try:
            index = json.loads((folder / INDEX).read_text())
            return cls(tuple(index["sizes"]), folder, index.get("max_new_tokens"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder} does not hold a whole set of reference answers; collect them again"
            ) from error

    def batch(self, index: int) -> ReferenceBatch:
        """Raises InputError when the batch's file is missing or damaged."""
        if not isinstance(self.batches, Path):
            return self.batches[index]
        file = self.batches / _file_name(index)
        try:
            return ReferenceBatch(**load_file(file))
        except (OSError, SafetensorError, TypeError) as error:
            raise InputError(
                f"{file}: the reference answers are missing or damaged ({error}); collect them again"
            ) from error


def collect_reference(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    folder: Path | None = None,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 16,
    events: Events = SILENT,
) -> ReferenceAnswers:
    """Let the reference model answer all samples, and keep its logits: in `folder`, which must be empty or
    new, or in memory without one.

    Models will be compared in the same batches. They take about 2 bytes (4 for a float32 model) for each
    answer token and vocabulary entry. `events` receives the progress of the "reference answers". Raises
    InputError for samples that cannot be asked, and for a folder that cannot be written.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; give 1 or more")
    if folder is not None:
        _make_empty(folder)
    family = family_of(model.config)
    starts = range(0, len(samples), batch_size)
    kept = []
    with inference(model):
        for index, start in enumerate(starts):
            chosen = samples[start : start + batch_size]
            batch = _reference_batch(
                model, family, prepare(model, processor, family, chosen), processor, max_new_tokens
            )
            if folder is None:
                kept.append(batch)
            else:
                _write(folder / _file_name(index), lambda part, batch=batch: save_file(_tensors(batch), part))
            events.progress("reference answers", start + len(chosen), len(samples))
    sizes = tuple(len(samples[start : start + batch_size]) for start in starts)
    if folder is None:
        return ReferenceAnswers(sizes, tuple(kept), max_new_tokens)
    index = {"sizes": sizes, "max_new_tokens": max_new_tokens}
    _write(folder / INDEX, lambda part: part.write_text(json.dumps(index)))
    return ReferenceAnswers(sizes, folder, max_new_tokens)


@dataclass(frozen=True)
class Judgement:
    """A model's distance from a reference on one batch: in all, and on every question."""

    total: Fidelity
    questions: tuple[Fidelity, ...]


def judge(model: Any, family: Family, inputs: Mapping[str, Tensor], reference: ReferenceBatch) -> Judgement:
    """The model's distance from the reference on one batch; `inputs` are the model's own for the same
    samples.

    Raises InputError if the two do not have the same questions, or not the same vocabulary.
    """
    prompts = inputs["input_ids"]
    if not torch.equal(reference.prompts, prompts.cpu()):
        raise InputError(
            "the reference was asked other questions, or has another tokenizer or processor than the model;"
            " they must have the same"
        )
    answers = Answers(reference.tokens.to(prompts.device), reference.mask.to(prompts.device), 0)
    logits = answer_logits(model, family, inputs, answers)
    if logits.shape != reference.logits.shape:
        sizes = f"{reference.logits.shape[-1]} and {logits.shape[-1]} entries"
        raise InputError(
            f"the vocabularies of the reference and the model have {sizes}; their logits can only be compared"
            " when they are the same"
        )
    found = distances(reference.logits.to(logits.device), logits)
    ends = [0, *answers.mask.sum(dim=1).cumsum(dim=0).tolist()]
    questions = tuple(found.of(slice(start, end)) for start, end in pairwise(ends))
    return Judgement(found.total, questions)


def answer_logits(model: Any, family: Family, inputs: Mapping[str, Tensor], answers: Answers) -> Tensor:
    """The logits that predict the answer tokens when the model reads these tokens: (k, vocabulary), row by
    row, k the number of answer tokens.

    The head runs only at the positions that predict the answers: from the prompt's last token to the token
    before the answer's last (MiniCPM-V's runs everywhere).
    """
    grown, count = family.extend(inputs, answers.tokens, answers.mask), answers.tokens.shape[1] + 1
    output = model(**grown, use_cache=False, **keeping(model, count))
    return last_logits(output, count)[:, :-1][answers.mask]


def _reference_batch(
    model: Any, family: Family, inputs: dict[str, Tensor], processor: Any, max_new_tokens: int
) -> ReferenceBatch:
    answers = generate(model, processor, family, inputs, max_new_tokens)
    logits = answer_logits(model, family, inputs, answers)
    return ReferenceBatch(inputs["input_ids"].cpu(), answers.tokens.cpu(), answers.mask.cpu(), logits.cpu())


def _tensors(batch: ReferenceBatch) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in vars(batch).items()}


def _file_name(index: int) -> str:
    return f"batch-{index:05d}.safetensors"


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        filled = any(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: reference answers cannot be written there ({error.strerror})") from error
    if filled:
        raise InputError(f"{folder} is not empty; give a new folder for the reference answers")


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name and rename, so a file with its final name is complete."""
    part = file.with_name(f"{file.name}.part")
    try:
        write(part)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{file}: the reference answers cannot be written ({error}); choose a folder with more room"
        ) from error
    finally:
        part.unlink(missing_ok=True)
