"""The engine: one thread that owns the model, and a queue of requests that wait for it.

Requests that wait are read together and join those that are under way, up to `most_rows` at a time. A model
whose rows cannot join answers those that wait together, one batch after the other. So are requests that ask
for a share of the visual tokens: all rows of a batch keep the same share, and the queue keeps its order.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from threading import Condition, Thread
from typing import Any

from bivlm.errors import InputError
from bivlm.eval.answer import inference
from bivlm.families import family_of
from bivlm.serving.asked import Ended, Failed, Request
from bivlm.serving.joint import JointBatch, NotJoinable
from bivlm.serving.together import answer_together
from bivlm.serving.visual import VisualTokens

logger = logging.getLogger(__name__)

FAULT = "the server failed to answer; its log says why"


class Busy(Exception):
    """As many requests wait as may wait, or the engine stops."""


class Engine:
    """Answers requests with one model. `most_rows` are answered together; `most_waiting` may wait."""

    def __init__(self, model: Any, processor: Any, *, most_rows: int = 16, most_waiting: int = 64) -> None:
        self.model, self.processor, self.family = model, processor, family_of(model.config)
        self.most_rows, self.most_waiting = most_rows, most_waiting
        self.visual = VisualTokens(model, self.family)
        self.joins = True  # until the model turns out to keep a state that rows cannot join
        self._batch = JointBatch(model, processor, self.family)
        self._waiting: deque[Request] = deque()
        self._changed = Condition()
        self._stopping = False
        self._thread = Thread(target=self._run, name="bivlm-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Let a request wait for its answer. Raises Busy if too many wait already, or if the engine stops."""
        with self._changed:
            if self._stopping or len(self._waiting) >= self.most_waiting:
                raise Busy
            self._waiting.append(request)
            self._changed.notify()

    def stop(self) -> None:
        """Answer what waits and what is under way, then end. Nothing new is taken."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        return len(self._batch.rows)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._stopping or not self._batch.is_empty):
                    self._changed.wait()
                if self._stopping and not self._waiting and self._batch.is_empty:
                    return
                new = self._next()
            with inference(self.model):
                self._admit(new)
                self._step()

    def _next(self) -> list[Request]:
        """The requests that join now, without those whose clients have gone."""
        new: list[Request] = []
        while self._waiting and len(new) < self.most_rows - len(self._batch.rows):
            request = self._waiting[0]
            if request.cancelled.is_set():
                request.send(Ended("cancelled", 0, 0))
            elif self._fits(request, new):
                new.append(request)
            else:
                break
            self._waiting.popleft()
        return new

    def _fits(self, request: Request, new: Sequence[Request]) -> bool:
        """Whether a request keeps the share of visual tokens that the rows keep which it would be with."""
        if not self._batch.is_empty:
            return request.visual_tokens is None
        return not new or request.visual_tokens == new[0].visual_tokens

    def _admit(self, new: Sequence[Request]) -> None:
        """Read the prompts of new requests; if one of several cannot be read, each alone."""
        if not new:
            return
        try:
            self._begin(new)
        except InputError as error:
            if len(new) == 1:
                new[0].send(Failed(str(error)))
            for request in new if len(new) > 1 else ():
                self._admit([request])
        except Exception:  # whatever it is, the other clients are answered
            logger.exception("a prompt could not be read")
            for request in new:
                request.send(Failed(FAULT, internal=True))

    def _begin(self, new: Sequence[Request]) -> None:
        share = new[0].visual_tokens
        if self.joins and share is None:
            try:
                self._batch.join(new)
                return
            except NotJoinable:
                self.joins = False
                logger.warning(
                    "this model's rows cannot join a batch: requests that wait are answered together"
                )
        with self.visual.kept(share):
            answer_together(self.model, self.processor, self.family, new)

    def _step(self) -> None:
        if self._batch.is_empty:
            return
        try:
            self._batch.step()
        except Exception:  # as above
            logger.exception("a step failed")
            for row in self._batch.leave_all():
                row.request.send(Failed(FAULT, internal=True))
