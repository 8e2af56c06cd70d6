"""What every request goes through first: the key, the size of its body; and the headers of every answer."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from bivlm.serving.chat import error_object
from bivlm.serving.limits import Limits
from bivlm.serving.metrics import Metrics
from bivlm.serving.page import PAGE_FILES

OPEN = ("/health", "/metrics")  # without a key; and the page, which asks for it
# nothing from anywhere else, in whatever a model or a client may write into the page
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Next = Callable[[Request], Awaitable[Response]]


def guard_of(limits: Limits, metrics: Metrics) -> Callable[[Request, Next], Awaitable[Response]]:
    """Refuses bodies that are too large, before they are read, and clients without the key."""

    async def guard(request: Request, go_on: Next) -> Response:
        refusal = _no_key(request, limits, metrics) or _no_size(request, limits, metrics)
        response = await go_on(request) if refusal is None else refusal
        response.headers.update(HEADERS)
        return response

    return guard


def _no_key(request: Request, limits: Limits, metrics: Metrics) -> Response | None:
    if limits.api_key is None or request.scope["path"] in (*OPEN, *PAGE_FILES):
        return None
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    if hmac.compare_digest(given, limits.api_key.encode()):
        return None
    metrics.refused("key")
    return JSONResponse(error_object("the API key is missing or wrong", "invalid_request_error"), 401)


def _no_size(request: Request, limits: Limits, metrics: Metrics) -> Response | None:
    if request.method != "POST":
        return None
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return JSONResponse(error_object("the request does not say its length", "invalid_request_error"), 411)
    if int(length) <= limits.body_bytes:
        return None
    metrics.refused("too large")
    said = f"the request has {int(length):,} bytes; this server takes {limits.body_bytes:,}"
    return JSONResponse(error_object(said, "invalid_request_error"), 413)
