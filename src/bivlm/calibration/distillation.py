"""Whole-model tuning: row scales and vectors of a packed model, trained end to end on the predictions of the
full-precision model.

The codes do not change, and no bit is added. Adam moves the row scales of all packed linears and the vectors
of the model (norms, biases); the loss is the KL divergence of the targets' predictions from the teacher's
(teacher.py), the rate falls as a cosine. A part of the samples is held out and judges: the best numbers,
rounded to their stored precision, are kept, and only if they are better there than those before.

(End-to-end tuning of what is left continuous after quantization: QuIP#, arXiv 2402.04396; QTIP, arXiv
2406.11235; PV-tuning, arXiv 2405.14852, moves codes as well.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.calibration.inputs import CalibrationInput
from bivlm.calibration.scaled import SHIFT, ScaledLinear, rounded_shift
from bivlm.calibration.teacher import Teacher
from bivlm.checkpoint.training_state import State, StateFile, adam_tensors, part_of, restore_adam
from bivlm.errors import InputError
from bivlm.events import SILENT, Events
from bivlm.families.last_logits import keeping, last_logits

logger = logging.getLogger("bivlm.calibration")

TUNING = "steps of tuning the whole model"  # what the progress is called
RATE = 2e-3  # of Adam, relative to the size of the parameter
BETAS = (0.9, 0.98)
HELD_OUT = 8  # every eighth sample judges
TARGETS = 256  # of a step, about; a step takes MOST_SAMPLES at most
MOST_SAMPLES = 8
LEAST_STEPS = 32
JUDGED = 4  # times the held-out samples are judged
SAVED = 8  # steps between two checkpoints
FILE = "tuning.safetensors"


@dataclass(frozen=True)
class Distilled:
    """What tuning found: `shifts` of the rows of packed linears, by name, and new values of vectors, by
    parameter name, both as they will be stored; the held-out divergence (nats per target) before and after.
    """

    shifts: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    before: float
    after: float


@dataclass(frozen=True)
class _Run:
    """The fixed parts of one tuning."""

    model: nn.Module
    samples: Sequence[CalibrationInput]
    teacher: Teacher
    movable: Mapping[str, nn.Parameter]
    stored: Mapping[str, torch.dtype]
    precision: AbstractContextManager[Any]

    def loss(self, number: int) -> Tensor:
        """The sum of the divergences of a sample's targets."""
        sample = self.samples[number]
        keep, rows = sample.predicting()
        with self.precision:
            output = self.model(**sample.tensors, use_cache=False, **keeping(self.model, keep))
            logits = last_logits(output, keep)[0]
        return self.teacher.prediction(number).divergence(logits[rows]).sum()

    @torch.no_grad()
    def judge(self, numbers: Sequence[int]) -> float:
        """The mean divergence of the targets of some samples."""
        lost = sum(float(self.loss(number)) for number in numbers)
        return lost / sum(len(self.samples[number].labels) for number in numbers)

    def values(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.movable.items()}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.movable.items():
            parameter.copy_(values[name])

    def rounded(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values as they will be stored."""
        found = {}
        for name, value in values.items():
            module = self.model.get_submodule(name.rpartition(".")[0])
            if isinstance(module, ScaledLinear) and name.endswith(f".{SHIFT}"):
                found[name] = rounded_shift(module.packed, value)
            else:
                found[name] = value.to(self.stored[name]).float()
        return found


def tune_model(
    model: nn.Module,
    samples: Sequence[CalibrationInput],
    teacher: Teacher,
    stored: Mapping[str, torch.dtype],
    *,
    passes: int = 1,
    dtype: torch.dtype = torch.float32,
    folder: Path | None = None,
    events: Events = SILENT,
) -> Distilled:
    """Tune `model`, whose packed linears are `ScaledLinear`, on samples that all have targets, `passes` times
    each or more; `stored` has the dtype in which each vector will be stored, by parameter name.

    `dtype` bfloat16 computes products in it. In `folder` the state is kept, and taken up again. Nothing is
    tuned with fewer than HELD_OUT samples. Raises InputError if a divergence is not finite.
    """
    model.requires_grad_(False)
    movable = dict(_movable(model))
    precision = torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
    run = _Run(model, samples, teacher, movable, stored, precision)
    judges = [number for number in range(len(samples)) if not number % HELD_OUT]
    originals = run.values()
    before = run.judge(judges)
    if not math.isfinite(before):
        raise InputError(
            "the packed model's divergence from the full-precision model is not finite; it cannot be tuned"
        )
    if len(samples) < HELD_OUT or not movable:
        return Distilled({}, {}, before, before)
    train = [number for number in range(len(samples)) if number % HELD_OUT]
    best = _descend(run, train, judges, passes, before, folder, events)
    if best is None:
        logger.warning("tuning the whole model made it no better on held-out samples: it stays as it was")
        return Distilled({}, {}, before, before)
    found = run.rounded(best)
    run.load(found)
    after = run.judge(judges)
    logger.info("held-out divergence %.4g before tuning the whole model, %.4g after", before, after)
    if not after < before:
        run.load(originals)
        return Distilled({}, {}, before, before)
    ending = f".{SHIFT}"
    shifts = {name.removesuffix(ending): value for name, value in found.items() if name.endswith(ending)}
    vectors = {
        name: value.to(stored[name])
        for name, value in found.items()
        if not name.endswith(ending) and not torch.equal(value, originals[name])
    }
    return Distilled(shifts, vectors, before, after)


def _descend(
    run: _Run,
    train: Sequence[int],
    judges: Sequence[int],
    passes: int,
    before: float,
    folder: Path | None,
    events: Events,
) -> dict[str, Tensor] | None:
    """Adam over all steps; the values with the smallest held-out divergence, None if none beats `before`."""
    steps = _steps(run.samples, train, passes)
    rates = [RATE * _size(name, parameter) for name, parameter in run.movable.items()]
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": rate} for p, rate in zip(run.movable.values(), rates, strict=True)],
        betas=BETAS,
    )
    for parameter in run.movable.values():  # samples without images reach no vision part: a gradient of zero
        parameter.grad = torch.zeros_like(parameter)
    state = _Progress(run, optimizer, None if folder is None else StateFile(folder / FILE), before, events)
    judged = {round(len(steps) * (turn + 1) / JUDGED) for turn in range(JUDGED)}
    for step in range(state.resume(), len(steps)):
        events.progress(TUNING, step, len(steps))
        share = 0.5 * (1 + math.cos(math.pi * step / len(steps)))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        optimizer.zero_grad(set_to_none=False)
        targets = sum(len(run.samples[number].labels) for number in steps[step])
        for number in steps[step]:
            (run.loss(number) / targets).backward()
        if not all(bool(p.grad.isfinite().all()) for p in run.movable.values() if p.grad is not None):
            events.say(
                f"the divergence is not finite at step {step + 1} of {len(steps)}: the tuning ends here"
            )
            break
        optimizer.step()
        if step + 1 in judged:
            state.offer(run.judge(judges))
        if not (step + 1) % SAVED or step + 1 in judged:
            state.save(step + 1)
    events.progress(TUNING, len(steps), len(steps))
    return state.best


class _Progress:
    """The best values so far, with what is needed to continue."""

    def __init__(
        self,
        run: _Run,
        optimizer: torch.optim.Optimizer,
        file: StateFile | None,
        before: float,
        events: Events,
    ) -> None:
        self.run, self.optimizer, self.file, self.events = run, optimizer, file, events
        self.losses = [before]
        self.best: dict[str, Tensor] | None = None

    def offer(self, divergence: float) -> None:
        """Keep the present values if their held-out divergence is the smallest."""
        logger.info("held-out divergence %.4g", divergence)
        if divergence < min(self.losses):
            self.best = self.run.values()
        self.losses.append(divergence)

    def save(self, step: int) -> None:
        if self.file is not None:
            best = {f"best:{name}": value for name, value in (self.best or {}).items()}
            tensors = adam_tensors(self.optimizer, self.run.movable) | best
            self.file.save(State(step, tuple(self.losses), tensors))

    def resume(self) -> int:
        """Take up what an earlier run left; the step at which to go on."""
        state = None if self.file is None else self.file.load(self.events)
        if state is None:
            return 0
        restore_adam(self.optimizer, self.run.movable, state)
        self.best, self.losses = part_of(state.tensors, "best:") or None, list(state.losses)
        return state.step


def _steps(samples: Sequence[CalibrationInput], train: Sequence[int], passes: int) -> list[list[int]]:
    """The samples of every step: `passes` rounds through all of them in random order, or as many as make
    LEAST_STEPS.
    """
    random = torch.Generator().manual_seed(0)
    steps: list[list[int]] = []
    round_number = 0
    while round_number < passes or len(steps) < LEAST_STEPS:
        order = torch.randperm(len(train), generator=random, dtype=torch.int64, device="cpu").tolist()
        step: list[int] = []
        for number in (train[place] for place in order):
            step.append(number)
            if len(step) == MOST_SAMPLES or sum(len(samples[n].labels) for n in step) >= TARGETS:
                steps.append(step)
                step = []
        steps += [step] if step else []
        round_number += 1
    return steps


def _movable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that tuning moves, in float32: shifts of rows, and vectors."""
    found = []
    for place, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() != 1 or not parameter.is_floating_point():
                continue
            if isinstance(module, ScaledLinear) and name == SHIFT and not module.has_row_scales:
                continue
            own = nn.Parameter(parameter.detach().clone().float())
            setattr(module, name, own)
            found.append((f"{place}.{name}" if place else name, own))
    return found


def _size(name: str, parameter: Tensor) -> float:
    """The unit of a step: 1 for shifts, else the vector's root mean square (a hundredth for a vector of
    zeros).
    """
    if name.endswith(f".{SHIFT}"):
        return 1.0
    return max(float(parameter.detach().square().mean().sqrt()), 1e-2)
