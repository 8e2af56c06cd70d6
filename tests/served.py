"""A server that listens on a port of this machine, and clients for it and for its engine."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time

import uvicorn
from openai import OpenAI
from PIL import Image

from bivlm.serving.api import Site, application
from bivlm.serving.asked import Piece
from bivlm.serving.limits import Limits
from bivlm.serving.serve import engine_of, listening

SITE = Site(("tiny", "/models/tiny"), {"weight_bytes": 1_500_000, "true_bits": 2.03})
LIMITS = Limits(most_tokens=40, most_images=2, body_bytes=1 << 20, seconds=60.0)


class Server:
    """A server in a thread of this process; `stop` ends it as SIGTERM does."""

    def __init__(self, model, processor, limits=LIMITS, site=SITE, **engine) -> None:
        self.site, self.engine = site, engine_of(model, processor, **engine)
        self.engine.start()
        self.clients: dict[str, OpenAI] = {}
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = listening(application(self.engine, site, limits), limits, host="", port=0)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def client(self, key: str = "none") -> OpenAI:
        if key not in self.clients:
            self.clients[key] = OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0)
        return self.clients[key]

    def stop(self) -> None:
        for client in self.clients.values():
            client.close()
        self.server.should_exit = True
        self.thread.join(30)
        self.engine.stop()
        self.socket.close()


class Client:
    """A client of the engine: waits for the end of one answer."""

    def __init__(self) -> None:
        self.text, self.end, self._ended = "", None, threading.Event()

    def __call__(self, event) -> None:
        if isinstance(event, Piece):
            self.text += event.text
        else:
            self.end = event
            self._ended.set()

    def wait(self):
        assert self._ended.wait(60)
        return self.end


def data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def until(true) -> None:
    """Wait until something is so."""
    for _ in range(400):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")
