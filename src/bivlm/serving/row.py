"""A request under way: how its tokens are chosen and become text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bivlm.serving.asked import Ended, Piece, Reason, Request
from bivlm.serving.choice import Chooser
from bivlm.serving.words import Words


@dataclass(eq=False)
class Row:
    """One row of a batch; `tokens` counts those of its answer."""

    request: Request
    chooser: Chooser
    words: Words
    prompt_tokens: int
    tokens: int = 0

    def add(self, token: int, ends: Sequence[int]) -> Reason | None:
        """Take one more token, and tell the client; why the answer ends, if it does."""
        self.tokens += 1
        text = self.words.add(token)
        reason: Reason | None = None
        if (token in ends and not self.request.ignore_eos) or self.words.is_stopped:
            reason = "stop"
        elif self.tokens >= self.request.max_new_tokens:
            reason = "length"
        if self.request.cancelled.is_set():
            reason = "cancelled"
        if reason is not None:
            text += self.words.rest()
        if text:
            self.request.send(Piece(text))
        return reason

    def end(self, reason: Reason) -> None:
        """Tell the client that the answer is complete."""
        self.request.send(Ended(reason, self.prompt_tokens, self.tokens))
