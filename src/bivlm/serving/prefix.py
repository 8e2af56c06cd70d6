"""A server below a prefix: a proxy may pass the whole path on, or leave the prefix out."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class BelowPrefix:
    """An application to which `/vision/v1/models` is `/v1/models`, for the prefix `/vision`; what does not
    begin with the prefix stays as it is. The prefix alone leads to its page, whose links are relative.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app, self.prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path == self.prefix:
            await RedirectResponse(self.prefix + "/")(scope, receive, send)
            return
        if scope["type"] == "http" and path.startswith(self.prefix + "/"):
            scope = {**scope, "path": path[len(self.prefix) :]}
        await self.app(scope, receive, send)
