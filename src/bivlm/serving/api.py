"""The HTTP interface: chat completions as OpenAI's clients ask for them, models, health, metrics; and the
page.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from bivlm import __version__
from bivlm.errors import InputError, cut
from bivlm.serving import asked
from bivlm.serving.asked import Event, Failed, Piece
from bivlm.serving.chat import FINISHED, Answered, ChatRequest, error_object
from bivlm.serving.engine import Busy, Engine
from bivlm.serving.fetch import Fetcher
from bivlm.serving.guard import guard_of
from bivlm.serving.limits import Limits
from bivlm.serving.messages import sample_of
from bivlm.serving.metrics import Metrics
from bivlm.serving.page import add_page
from bivlm.serving.prefix import BelowPrefix
from bivlm.types import Sample

LOOKS = 0.5  # seconds between two looks at whether a client is still there
FETCHES = 8  # requests whose images are fetched at the same time


class TooSlow(Exception):
    """A request took longer than it may."""


class Listening:
    """The events of one request, for the server's loop; the engine's thread sends them."""

    def __init__(self, engine: Engine, metrics: Metrics, seconds: float) -> None:
        self.engine, self.metrics, self.seconds = engine, metrics, seconds
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        self._began, self._told = time.monotonic(), False
        self.request: asked.Request | None = None

    def send(self, event: Event) -> None:
        """Take an event, from any thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def submit(self, request: asked.Request) -> None:
        """Let the request wait. Raises Busy."""
        self.engine.submit(request)
        self.request = request

    async def events(self, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[Event]:
        """All events up to the last. If the client is gone, or the request takes too long (TooSlow), the
        request is cancelled.
        """
        assert self.request is not None
        try:
            while True:
                event = await self._next(gone)
                spent = time.monotonic() - self._began
                if isinstance(event, Piece) and not self._told:
                    self._told = True
                    self.metrics.first(spent)
                if not isinstance(event, Piece):
                    self.metrics.last(event, spent)
                yield event
                if not isinstance(event, Piece):
                    return
        finally:
            self.request.cancelled.set()

    async def _next(self, gone: Callable[[], Awaitable[bool]]) -> Event:
        while True:
            left = self._began + self.seconds - time.monotonic()
            if left <= 0:
                self.metrics.refused("too slow")
                raise TooSlow(f"the answer was not complete after {self.seconds:g} seconds")
            try:
                return await asyncio.wait_for(self._events.get(), min(left, LOOKS))
            except TimeoutError:
                if await gone():
                    self.metrics.refused("client gone")
                    raise asyncio.CancelledError from None


@dataclass(frozen=True)
class Site:
    """What a server shows of itself: the `names` of its model, the one to show first; what `/v1/models` says
    of it besides (`about`); `root_path`, the prefix at which a proxy shows the server; and whether there is a
    `page` at `/`.
    """

    names: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)
    root_path: str = ""
    page: bool = True


def application(engine: Engine, site: Site, limits: Limits) -> FastAPI:
    """The web application around an engine."""
    app = FastAPI(title="bivlm", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    metrics = Metrics(engine)
    app.middleware("http")(guard_of(limits, metrics))
    if site.root_path:
        app.add_middleware(BelowPrefix, prefix=site.root_path)
    if site.page:
        add_page(app)
    fetching = CapacityLimiter(FETCHES)
    app.exception_handler(InputError)(_refused)
    app.exception_handler(RequestValidationError)(_unreadable)

    @app.get("/health")
    async def health() -> Response:
        alive = engine.is_alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        one = {"id": site.names[0], "object": "model", "created": 0, "owned_by": "bivlm"}
        pruner = engine.visual.pruner
        share = None if pruner is None else engine.visual.own
        visual = {"visual_tokens": share, "pruning": str(pruner or "")}
        bounds = {"max_images": limits.most_images, "max_tokens": limits.most_tokens}
        return {"object": "list", "data": [{**one, **visual, **bounds, **site.about}]}

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, http: Request) -> Response:
        body.check(site.names)
        listening = Listening(engine, metrics, limits.seconds)
        request = asked.Request(
            await _sample(body, limits, fetching),
            listening.send,
            body.most_tokens(limits),
            body.sampling,
            body.stops,
            body.ignore_eos,
            engine.visual.asked(body.visual_tokens),
        )
        try:
            listening.submit(request)
        except Busy:
            metrics.refused("busy")
            said = error_object("too many requests wait; try again soon", "rate_limit_error")
            return JSONResponse(said, 429, {"Retry-After": "1"})
        answered = Answered(site.names[0])
        if body.stream:
            counted = body.stream_options is not None and body.stream_options.include_usage
            pieces = _stream(listening, answered, http, counted=counted)
            return StreamingResponse(pieces, media_type="text/event-stream")
        return await _whole(listening, answered, http)

    return app


async def _sample(body: ChatRequest, limits: Limits, fetching: CapacityLimiter) -> Sample:
    """The sample of a request; images at addresses are fetched by another thread."""
    if not limits.urls:
        return sample_of(body.messages, limits.most_images)
    return await run_sync(sample_of, body.messages, limits.most_images, Fetcher(), limiter=fetching)


async def _whole(listening: Listening, answered: Answered, http: Request) -> Response:
    """The answer in one object."""
    text = ""
    try:
        async for event in listening.events(http.is_disconnected):
            if isinstance(event, Piece):
                text += event.text
            elif isinstance(event, Failed):
                return _failed(event)
            else:
                return JSONResponse(answered.whole(text.rstrip(), event))
    except TooSlow as error:
        return JSONResponse(error_object(str(error), "server_error"), 504)
    raise AssertionError("a request ends with an event")


async def _stream(
    listening: Listening, answered: Answered, http: Request, *, counted: bool
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    yield _line(answered.piece({"role": "assistant", "content": ""}))
    try:
        async for event in listening.events(http.is_disconnected):
            if isinstance(event, Piece):
                yield _line(answered.piece({"content": event.text}))
            elif isinstance(event, Failed):
                yield _line(json.loads(bytes(_failed(event).body)))
            else:
                yield _line(answered.piece({}, FINISHED[event.reason]))
                if counted:
                    yield _line(answered.counted(event))
    except TooSlow as error:
        yield _line(error_object(str(error), "server_error"))
    yield "data: [DONE]\n\n"


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _failed(event: Failed) -> JSONResponse:
    kind = "server_error" if event.internal else "invalid_request_error"
    return JSONResponse(error_object(event.message, kind), 500 if event.internal else 400)


async def _refused(_request: Request, error: Exception) -> Response:
    return JSONResponse(error_object(str(error), "invalid_request_error"), 400)


async def _unreadable(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"] if step != "body") or "the body"
    return JSONResponse(error_object(f"{where}: {cut(first['msg'], 200)}", "invalid_request_error"), 400)
