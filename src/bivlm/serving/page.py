"""The page at `/`: a chat with the model in a browser. Its files are in web/, and everything that it needs is
among them; web/deep-chat/ is a component of others, as they publish it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse

WEB = Path(__file__).parent / "web"
PAGE_FILES = {  # by their path at the server
    "/": ("page.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/completions.js": ("completions.js", "text/javascript"),
    "/page/deepChat.bundle.js": ("deep-chat/deepChat.bundle.js", "text/javascript"),
}


def add_page(app: FastAPI) -> None:
    """Let an application serve the page. All its links are relative, so it may stand below any prefix."""
    for path, (name, kind) in PAGE_FILES.items():
        app.add_api_route(path, _file(WEB / name, kind), methods=["GET", "HEAD"])


def _file(path: Path, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send
