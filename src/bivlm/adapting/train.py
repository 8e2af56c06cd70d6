"""The training loop: Adam on the factors of an adapter, everything else as it is.

    loss of a lesson    with a teacher  mean over the answer's tokens of KL(teacher || model)
                        without         mean over the answer's tokens of -log q(token)

Every fourth lesson is held out and judges: at the start, with factors that add nothing, and JUDGEMENTS times
on the way, with the factors rounded as they will be stored; the best are kept. The learning rate falls by a
cosine to zero. The order of an epoch depends on the seed and its number alone, so a training that was
interrupted goes on from its last state and ends with the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bivlm.adapters.lora import Factors, Lora, loras
from bivlm.adapters.rounding import rounded
from bivlm.adapting.lessons import Lesson, LessonFolder
from bivlm.adapting.recompute import recomputed
from bivlm.adapting.settings import HELD_OUT, AdaptSettings
from bivlm.checkpoint.training_state import State, StateFile, adam_tensors, part_of, restore_adam
from bivlm.errors import InputError
from bivlm.eval.answer import Answers
from bivlm.eval.fidelity import answer_logits
from bivlm.events import Events
from bivlm.families import family_of
from bivlm.kl import kl_divergence

LARGEST_NORM = 1.0  # of the gradient of all factors together
JUDGEMENTS = 4  # evenly over the training, the last one at its end
SAVED_SECONDS = 60.0  # between two states
FACTORS = ("a", "b")


@dataclass(frozen=True)
class Trained:
    """`losses` on the held-out lessons, the start's first, then one for each judgement; `adapter` are the
    best factors as they will be stored, without those that add nothing, None if none was better than the
    start.
    """

    losses: tuple[float, ...]
    adapter: Mapping[str, Factors] | None


class Training:
    """The training of a model with adapters (`attach`) on `count` lessons."""

    def __init__(
        self,
        model: Any,
        lessons: LessonFolder,
        count: int,
        settings: AdaptSettings,
        states: StateFile,
        events: Events,
    ) -> None:
        self.model, self.family = model, family_of(model.config)
        self.lessons, self.settings, self.states, self.events = lessons, settings, states, events
        self.learn = [number for number in range(count) if number % HELD_OUT]
        self.judge = [number for number in range(count) if not number % HELD_OUT]
        self.loras = loras(model)
        self.parameters = {
            f"{name}.{letter}": getattr(lora, letter).requires_grad_()
            for name, lora in self.loras.items()
            for letter in FACTORS
        }
        for parameter in self.parameters.values():  # one that nothing reaches has a gradient of zero
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.rate)
        self.steps_an_epoch = math.ceil(len(self.learn) / settings.batch_size)
        self.steps = self.steps_an_epoch * settings.epochs
        self.judged_at = {math.ceil(self.steps * part / JUDGEMENTS) for part in range(1, JUDGEMENTS + 1)}
        self.step = 0
        self.losses: list[float] = []
        self.best: dict[str, Factors] | None = None

    def run(self) -> Trained:
        """Train to the end, from the last state if there is one. InputError if the model's own loss is not
        finite.
        """
        state = self.states.load(self.events)
        if state is None:
            self._judge()
            if not math.isfinite(self.losses[0]):
                raise InputError(
                    "the loss of the packed model is not finite: its logits hold NaN or infinity, and nothing"
                    " can be learned from them; pack it with more bits"
                )
        else:
            self._restore(state)
        saved = time.monotonic()
        while self.step < self.steps:
            if not self._take_step():
                self.events.say(
                    f"the loss is not finite at step {self.step + 1} of {self.steps}; the training ends here,"
                    " with the best factors so far (a smaller --rate may help)"
                )
                break
            self.step += 1
            self.events.progress("training", self.step, self.steps)
            judged = self.step in self.judged_at
            if judged:
                self._judge()
            if judged or time.monotonic() - saved > SAVED_SECONDS:
                self.states.save(self._state())
                saved = time.monotonic()
        best = {name: factors for name, factors in (self.best or {}).items() if bool(factors.b.any())}
        return Trained(tuple(self.losses), best or None)

    def _take_step(self) -> bool:
        """One step of Adam on the mean loss of a batch; False, and nothing changed, if it is not finite."""
        epoch, place = divmod(self.step, self.steps_an_epoch)
        random = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.learn), generator=random, dtype=torch.int64, device="cpu").tolist()
        size = self.settings.batch_size
        batch = [self.learn[number] for number in order[place * size : (place + 1) * size]]
        self.optimizer.zero_grad(set_to_none=False)
        for number in batch:
            (self._loss(self.lessons.read(number)) / len(batch)).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_NORM)
        if not bool(norm.isfinite()):
            return False
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        self.optimizer.step()
        return True

    def _loss(self, lesson: Lesson) -> Tensor:
        device = self.model.device
        inputs = {name: tensor.to(device) for name, tensor in lesson.inputs.items()}
        tokens = lesson.tokens.to(device)
        answers = Answers(tokens, torch.ones_like(tokens, dtype=torch.bool), 0)
        with recomputed(self.model, self.family, inputs["input_ids"].shape[1] + tokens.shape[1]):
            logits = answer_logits(self.model, self.family, inputs, answers)
            return lesson_loss(logits, lesson)

    def _judge(self) -> None:
        """The mean loss of the held-out lessons with the factors as they would be stored; they are the best
        if it is the smallest.
        """
        moved = {name: lora.factors for name, lora in self.loras.items()}
        stored = {name: rounded(factors, self.settings.bits) for name, factors in moved.items()}
        _load(self.loras, stored)
        total = 0.0
        with torch.no_grad():
            for done, number in enumerate(self.judge, 1):
                total += float(self._loss(self.lessons.read(number)))
                self.events.progress("held-out samples", done, len(self.judge))
        loss = total / len(self.judge)
        if self.losses and loss < min(self.losses):
            self.best = stored
        _load(self.loras, moved)
        self.losses.append(loss)
        when = f"after step {self.step} of {self.steps}" if self.step else "before training"
        self.events.say(f"held-out loss {loss:.5f} {when}")

    def _state(self) -> State:
        tensors = adam_tensors(self.optimizer, self.parameters)
        for name, factors in (self.best or {}).items():
            tensors |= {f"best:{name}.{letter}": getattr(factors, letter) for letter in FACTORS}
        return State(self.step, tuple(self.losses), tensors)

    def _restore(self, state: State) -> None:
        self.step, self.losses = state.step, list(state.losses)
        restore_adam(self.optimizer, self.parameters, state)
        best = part_of(state.tensors, "best:")
        if best:
            self.best = {
                name: Factors(best[f"{name}.a"], best[f"{name}.b"], lora.scale)
                for name, lora in self.loras.items()
            }
        self.events.say(f"the training goes on after step {self.step} of {self.steps}")


def lesson_loss(logits: Tensor, lesson: Lesson) -> Tensor:
    """The loss of one lesson, () in nats per token; `logits` (a, vocabulary) predict its answer. InputError
    for a teacher of another vocabulary.
    """
    if lesson.logits is None:
        return nn.functional.cross_entropy(logits.float(), lesson.tokens[0].to(logits.device))
    if lesson.logits.shape != logits.shape:
        raise InputError(
            f"the vocabularies of the teacher and the packed model have {lesson.logits.shape[-1]} and"
            f" {logits.shape[-1]} entries; give the model from which it was packed"
        )
    return kl_divergence(lesson.logits.to(logits.device), logits).mean()


def _load(modules: Mapping[str, Lora], adapter: Mapping[str, Factors]) -> None:
    with torch.no_grad():
        for name, lora in modules.items():
            lora.a.copy_(adapter[name].a)
            lora.b.copy_(adapter[name].b)
