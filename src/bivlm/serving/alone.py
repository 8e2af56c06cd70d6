"""One question to a loaded model, answered piece by piece: for a terminal, without a server."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event as Flag
from typing import Any

from bivlm.eval.answer import inference
from bivlm.families import family_of
from bivlm.serving.asked import Ended, Event, Piece, Request, Sampling
from bivlm.serving.together import answer_together
from bivlm.types import Sample

GREEDY = Sampling()


def answer_alone(
    model: Any,
    processor: Any,
    sample: Sample,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    tell: Callable[[str], None] = lambda text: None,
    cancelled: Flag | None = None,
) -> tuple[str, Ended]:
    """The answer to a question, without outer spaces, and how it ended; `tell` gets its pieces as they come.
    `cancelled` may be set meanwhile: the answer ends after its next token. Raises InputError for a question
    that cannot be asked.
    """
    events: list[Event] = []

    def send(event: Event) -> None:
        events.append(event)
        if isinstance(event, Piece):
            tell(event.text)

    request = Request(sample, send, max_new_tokens, sampling, cancelled=cancelled or Flag())
    with inference(model):
        answer_together(model, processor, family_of(model.config), [request])
    *pieces, ended = events
    assert isinstance(ended, Ended)
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece)).strip(), ended
