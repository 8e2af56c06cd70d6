"""Images at addresses: never from where only the server can reach, never without end."""

from __future__ import annotations

import io
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from PIL import Image

import bivlm
from bivlm.errors import InputError
from bivlm.serving import fetch as module
from bivlm.serving.fetch import Fetcher, is_public
from bivlm.serving.messages import sample_of
from served import LIMITS, Server

PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")
NOT_PUBLIC = {
    "private": ("10.1.2.3", "172.16.0.1", "192.168.1.1", "fc00::1", "fec0::1"),
    "this machine": ("127.0.0.1", "127.8.9.1", "0.0.0.0", "::1", "::"),
    "the local link": ("169.254.169.254", "fe80::1", "fe80::1%eth0"),
    "shared, documentation, reserved": ("100.64.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "2001:db8::1"),
    "many receivers": ("224.0.0.1", "255.255.255.255", "ff02::1"),
    "within another": (
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
        *("2002:7f00:1::", "2001:0:102:304::1", "::127.0.0.1"),
    ),
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", [one for some in NOT_PUBLIC.values() for one in some])
def test_not_public(address):
    assert not is_public(address)


def png() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(file, "PNG")
    return file.getvalue()


class Site(BaseHTTPRequestHandler):
    """Pictures, redirects, and mischief; `reached` are the paths that were asked for."""

    picture, reached = png(), []

    def do_GET(self) -> None:
        self.reached.append(self.path)
        name = self.path.split("?")[0].strip("/")
        if name.startswith("to:"):
            self.send_response(302)
            self.send_header("Location", name[3:].replace("~", "/"))
            self.end_headers()
        elif name == "missing":
            self.send_error(404)
        elif name == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
                time.sleep(0.1)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write({"picture": self.picture, "text": b"hello"}.get(name, b"x" * 5000))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site():
    """A web server that counts as public as long as it is called example.test."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def public(site, monkeypatch):
    """Its address; nothing else of this machine is public."""
    lookup = socket.getaddrinfo

    def known(host, port, *args, **kwargs):
        names = {"example.test": "127.0.0.1", "both.test": "127.0.0.1", "intern.test": "127.0.0.2"}
        found = lookup(names.get(host, host), port, *args, **kwargs)
        return found + lookup("127.0.0.2", port, *args, **kwargs) if host == "both.test" else found

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    Site.reached.clear()
    return f"http://example.test:{site}"


@pytest.mark.parametrize(
    "path", ["/picture", "/picture?a=b c", "/to:picture", "/to:~to:~picture", "/to:/picture?x"]
)
def test_a_picture_is_fetched(public, path):
    found = Fetcher().image(public + path, "here")
    assert found.size == (40, 30)


REFUSED = {
    "/missing": "answers with status 404",
    "/text": "cannot be read as an image",
    "/large": "it has more than 0 MiB",
    "/to:~to:~to:~to:~picture": "more than 3 times",
    "/to:http:~~127.0.0.2:PORT~picture": "not at a public address",
    "/to:http:~~intern.test:PORT~picture": "not at a public address",
    "/to:file:~~~etc~passwd": "no plain http or https",
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_no_picture_or_leads_elsewhere(public, site, path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 4000)
    with pytest.raises(InputError, match=REFUSED[path]):
        Fetcher().image(public + path.replace("PORT", str(site)), "here")
    assert Site.reached.count("/picture") == 0


@pytest.mark.parametrize(
    "address",
    [
        *(
            "http://127.0.0.2:PORT/picture",
            "http://intern.test:PORT/picture",
            "http://both.test:PORT/picture",
        ),
        *(
            "http://2130706434:PORT/picture",
            "http://0x7f.2:PORT/picture",
            "http://[::ffff:127.0.0.2]:PORT/picture",
        ),
        *(
            "http://nowhere.invalid/picture",
            "http://a@example.test:PORT/picture",
            "ftp://example.test/picture",
        ),
        *("http://", "http:///x", "http://example.test:99999/", "http://[::1/", "http://exa mple.test/"),
        "https://example.test:PORT/picture",
    ],
)
def test_addresses_that_are_not_fetched(public, site, address):
    with pytest.raises(InputError, match=r"here: the image .* cannot be fetched"):
        Fetcher().image(address.replace("PORT", str(site)), "here")
    assert Site.reached == []


def test_an_address_adds_no_header(public):
    with pytest.raises(InputError, match="cannot be read as an image"):
        Fetcher().image(public + "/a\r\nHost: intern.test", "here")
    assert Site.reached == ["/aHost:%20intern.test"]


def test_all_images_of_a_request_share_one_time(public):
    fetcher = Fetcher(seconds=0.5)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(InputError, match=r"too long|does not answer as it should"):
            fetcher.image(public + "/slow", "here")
    assert time.monotonic() - began < 2


def test_too_many_images_are_refused_before_any_is_fetched(public):
    parts = [{"type": "image_url", "image_url": {"url": public + "/picture"}}] * 3
    with pytest.raises(InputError, match="3 images are given"):
        sample_of([{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}], 2, Fetcher())
    assert Site.reached == []


def test_a_server_that_is_allowed_to_fetch(loaded, public):
    server = Server(*loaded, replace(LIMITS, urls=True))

    def ask(address):
        image = {"type": "image_url", "image_url": {"url": address}}
        content = [image, {"type": "text", "text": "What is it?"}]
        return server.client().chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], max_tokens=8
        )

    try:
        expected = bivlm.answer(
            *loaded, Image.open(io.BytesIO(Site.picture)), "What is it?", max_new_tokens=8
        )
        assert ask(f"{public}/picture").choices[0].message.content == expected
        for address, said in (
            ("http://127.0.0.3/", "not at a public address"),
            ("/etc/passwd", "reads no files"),
            ("file:///etc/passwd", "reads no files"),
        ):
            with pytest.raises(openai.BadRequestError, match=said):
                ask(address)
    finally:
        server.stop()
