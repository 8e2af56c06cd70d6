"""What a client asks for, and what happens to it: a request, and the events that it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import Literal

from bivlm.errors import InputError
from bivlm.types import Sample

Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the likeliest one at `temperature` 0; otherwise drawn from the likeliest
    tokens that have the probability `top_p` together, with `seed` or a seed of its own.

    InputError for numbers out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise InputError(f"temperature is {self.temperature}; give a number from 0 to 2")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p is {self.top_p}; give a number above 0, at most 1")


@dataclass(frozen=True)
class Piece:
    """The next piece of an answer."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The end of an answer: why, and the tokens of the prompt and of the answer."""

    reason: Reason
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Failed:
    """A request that was not answered: what the client can correct, or `internal` for a fault of ours."""

    message: str
    internal: bool = False


Event = Piece | Ended | Failed


@dataclass(frozen=True, eq=False)
class Request:
    """A question that waits for its answer.

    `send` is told every event, from the engine's thread; the last is Ended or Failed. An answer ends before
    the first of the texts `stop`, and with `ignore_eos` only there or at its longest. `visual_tokens` is the
    share of the visual tokens that the model keeps, None for its own. `cancelled` may be set at any time,
    from any thread.
    """

    sample: Sample
    send: Callable[[Event], None]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    visual_tokens: float | None = None
    cancelled: Flag = field(default_factory=Flag)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_tokens is {self.max_new_tokens}; an answer takes 1 token or more")
