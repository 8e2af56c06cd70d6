"""One question to several models: answers, sizes, and speed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.modules import is_packed
from bivlm.checkpoint.shards import read_json
from bivlm.checkpoint.weight_files import weight_files
from bivlm.errors import InputError
from bivlm.eval.answer import generate, inference, prepare, texts
from bivlm.eval.inspection import inspect
from bivlm.events import SILENT, Events
from bivlm.families import family_of
from bivlm.loading import load
from bivlm.types import Sample

MOST_TOKENS = 64


@dataclass(frozen=True)
class ShownAnswer:
    """What one model answered. `bits` are the true bits of its packed weights, or those of its dtype;
    `nbytes` those of its weight files. `tokens_per_second` counts the tokens of the answer, from the question
    with its images to the last token, the second time that the question is asked.
    """

    name: str
    bits: float
    nbytes: int
    answer: str
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def show(
    models: Sequence[str | Path],
    sample: Sample,
    *,
    max_new_tokens: int = MOST_TOKENS,
    running: Mapping[str, Any] | None = None,
    events: Events = SILENT,
) -> list[ShownAnswer]:
    """Ask every model the question, one after the other in memory. `running` has arguments of `bivlm.load`:
    where they run, and how. `events` receives the progress of the
    "models". Raises InputError for no models, and as `bivlm.load` and `bivlm.answer` do.
    """
    if not models:
        raise InputError("there are no models to ask; give a model and what it was packed into")
    found = []
    for number, model in enumerate(models):
        found.append(_ask(model, sample, max_new_tokens, running or {}))
        events.progress("models", number + 1, len(models))
    return found


def _ask(name: str | Path, sample: Sample, max_new_tokens: int, running: Mapping[str, Any]) -> ShownAnswer:
    folder = resolve_model(name)
    model, processor = load(folder, **running)
    family = family_of(model.config)
    with inference(model):
        for _ in range(2):  # the first time, kernels are chosen and pages are read
            start = time.perf_counter()
            inputs = prepare(model, processor, family, [sample])
            answers = generate(model, processor, family, inputs, max_new_tokens)
            seconds = time.perf_counter() - start
        answer = texts(model, processor, answers)[0]
    if is_packed(read_json(folder / "config.json")):
        bits = inspect(folder).total.bits_per_weight
    else:
        bits = 8.0 * model.dtype.itemsize
    nbytes = sum(file.stat().st_size for file in weight_files(folder))
    shown = str(name) if resolve_model(name) != Path(name) else Path(name).resolve().name
    return ShownAnswer(shown, bits, nbytes, answer, int(answers.mask.sum()), seconds)
