"""OpenAI's chat completions: what a client may send, and what it gets."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bivlm.errors import InputError
from bivlm.serving.asked import Ended, Sampling
from bivlm.serving.limits import Limits

FINISHED = {"stop": "stop", "length": "length", "cancelled": "stop"}


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The fields that count; others that change nothing here (user, metadata, …) are left aside."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    ignore_eos: bool = False  # as vLLM's: for load tests
    visual_tokens: float | None = None  # the share of the visual tokens that the model keeps

    def check(self, models: tuple[str, ...]) -> None:
        """InputError for another model, and for what this server does not do."""
        if self.model and self.model not in models:
            raise InputError(f"there is no model {self.model!r} here; this server has {' or '.join(models)}")
        if self.n not in (None, 1):
            raise InputError("n is not 1; this server gives one answer to a request")
        extra: Mapping[str, Any] = self.model_extra or {}
        for name in ("tools", "functions", "logprobs", "logit_bias", "audio"):
            if extra.get(name):
                raise InputError(f"{name} are given; this server answers with plain text and without tools")
        wanted = extra.get("response_format")
        if isinstance(wanted, Mapping) and wanted.get("type") not in (None, "text"):
            raise InputError(
                "response_format asks for another form than text, which this server does not make"
            )

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen: the likeliest one unless a temperature is given."""
        return Sampling(self.temperature or 0.0, 1.0 if self.top_p is None else self.top_p, self.seed)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends. InputError for more than OpenAI allows."""
        words = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(words) > 4:
            raise InputError(f"{len(words)} stop texts are given; give 4 at most")
        return tuple(word for word in words if word)

    def most_tokens(self, limits: Limits) -> int:
        """The longest answer. InputError for more than the server allows, and for less than one token."""
        asked = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        if asked is None:
            return limits.most_tokens
        if not 1 <= asked <= limits.most_tokens:
            raise InputError(f"max_tokens is {asked}; this server takes 1 to {limits.most_tokens}")
        return asked


class Answered:
    """The objects that one answer is told in, all with the same id."""

    def __init__(self, model: str) -> None:
        self._common = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, ended: Ended) -> dict[str, Any]:
        """The answer in one object."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": FINISHED[ended.reason], "logprobs": None}
        return {
            **self._common,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(ended),
        }

    def piece(self, delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
        """A piece of a stream."""
        choice = {"index": 0, "delta": dict(delta), "finish_reason": finish, "logprobs": None}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}

    def counted(self, ended: Ended) -> dict[str, Any]:
        """The piece at the end of a stream that counts tokens."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage(ended)}


def usage(ended: Ended) -> dict[str, int]:
    prompt, answer = ended.prompt_tokens, ended.answer_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def error_object(
    message: str, kind: Literal["invalid_request_error", "server_error", "rate_limit_error"]
) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
