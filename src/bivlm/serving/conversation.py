"""A conversation with a loaded model: earlier turns, and the pictures that wait for the next question."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from typing import Any

from bivlm.data.fields import check_text
from bivlm.data.images import open_image
from bivlm.data.places import find_image
from bivlm.errors import InputError, cut
from bivlm.families import family_of
from bivlm.families.vision_only import check_answers_questions
from bivlm.pruning.apply import describe, prune
from bivlm.serving.alone import answer_alone
from bivlm.serving.asked import Ended, Sampling
from bivlm.types import Picture, Sample, Turn


class Conversation:
    """The turns of one conversation; `system` is its system prompt. Raises InputError for a vision-only
    model.
    """

    def __init__(
        self, model: Any, processor: Any, system: str, sampling: Sampling, max_new_tokens: int
    ) -> None:
        check_answers_questions(family_of(model.config))
        self._model, self._processor = model, processor
        self._system, self._sampling, self._most = system, sampling, max_new_tokens
        self._turns: list[Turn] = []
        self._images: dict[str, Picture] = {}  # those that wait, by their names
        self._names: list[list[str]] = []  # of the pictures of each turn

    @property
    def images_waiting(self) -> int:
        """How many pictures the next question is about."""
        return len(self._images)

    @property
    def pruning(self) -> str | None:
        """Which visual tokens are dropped, in words; None for none."""
        return describe(self._model)

    def add_image(self, name: str) -> None:
        """Let the next question be about a picture: a file, or a data URI. Raises InputError if it cannot be
        read.
        """
        found = find_image(name, "the picture given")
        if isinstance(found, Path):
            found = found.expanduser().absolute()
            name = str(found)
        open_image(found, "the picture given")
        self._images[name] = found

    def ask(self, question: str, tell: Callable[[str], None], stop: Flag) -> Ended:
        """Answer a question, and keep both; an answer that was stopped is kept as far as it came. Raises
        InputError for a question that cannot be asked; it is not kept, and its pictures wait on.
        """
        check_text(question, "the question", "")
        parts = (*self._images.values(), question)
        sample = Sample.of(parts, system=self._system, turns=tuple(self._turns))
        text, ended = answer_alone(
            self._model,
            self._processor,
            sample,
            max_new_tokens=self._most,
            sampling=self._sampling,
            tell=tell,
            cancelled=stop,
        )
        if text:
            self._turns.append(Turn(parts, text))
            self._names.append(list(self._images))
            self._images.clear()
        return ended

    def clear(self) -> None:
        """Forget the turns, and the pictures that wait."""
        self._turns.clear()
        self._names.clear()
        self._images.clear()

    def prune(self, pruning: str | None) -> None:
        """Drop visual tokens from now on, or none. Raises InputError for what this model cannot do."""
        prune(self._model, pruning)

    def save(self, file: Path) -> None:
        """Write the conversation as OpenAI's messages, pictures by the paths of their files. Raises
        InputError if there is none yet, or if the file is there or cannot be written.
        """
        if not self._turns:
            raise InputError("nothing was said yet; there is no conversation to save")
        messages: list[dict[str, Any]] = []
        if self._system:
            messages.append({"role": "system", "content": self._system})
        for turn, names in zip(self._turns, self._names, strict=True):
            pictures = [{"type": "image_url", "image_url": {"url": name}} for name in names]
            question = "".join(part for part in turn.parts if isinstance(part, str))
            content = [*pictures, {"type": "text", "text": question}]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": turn.answer}]
        try:
            with file.open("x", encoding="utf-8") as out:
                out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        except FileExistsError as error:
            raise InputError(f"{cut(str(file), 200)} is there already; give another name") from error
        except OSError as error:
            raise InputError(f"{cut(str(file), 200)} cannot be written ({error.strerror})") from error
