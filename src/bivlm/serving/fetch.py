"""An image from an address, for servers that allow it: from public addresses alone, whatever a name or a
redirect leads to, and within a time and a size.

The addresses of a name are looked up once, checked, and connected to as they are: a name that means another
address a moment later gains nothing.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import ssl
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Timer
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from PIL import Image

from bivlm.data.images import open_undecoded
from bivlm.errors import InputError, cut

SECONDS = 10.0  # for all images of a request together
MOST_BYTES = 16 << 20  # of an image
MOST_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
UNICAST = ipaddress.ip_network("2000::/3")  # IPv6 addresses that may be public
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses as networks of IPv6 alone see them


class _Refused(Exception):
    """What is wrong with an address or with what came from there."""


class Fetcher:
    """Fetches the images of one request."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._until = time.monotonic() + seconds

    def image(self, address: str, where: str) -> Image.Image:
        """The undecoded image at an address. Raises InputError, naming `where`, if the address is not public,
        does not answer in time, or holds no image of a size that is allowed.
        """
        try:
            content = self._content(address)
        except (_Refused, OSError, HTTPException, ValueError) as error:
            why = str(error) if isinstance(error, _Refused) else "it does not answer as it should"
            raise InputError(
                f"{where}: the image {cut(address)} cannot be fetched: {why}; give it as a data URI"
            ) from error
        return open_undecoded(io.BytesIO(content), where)

    def _content(self, address: str) -> bytes:
        for _ in range(1 + MOST_REDIRECTS):
            url = urlsplit(address)
            connection = _Pinned(url, _public_addresses(url), self._left())
            watch = Timer(self._left(), connection.hang_up)
            watch.daemon = True
            watch.start()
            try:
                with connection.answer(url) as answer:
                    if answer.status not in REDIRECTS:
                        return self._body(answer)
                    address = urljoin(address, answer.headers.get("Location", ""))
            finally:
                watch.cancel()
                connection.close()
        raise _Refused(f"it leads to another address more than {MOST_REDIRECTS} times")

    def _body(self, answer: HTTPResponse) -> bytes:
        if answer.status != 200:
            raise _Refused(f"it answers with status {answer.status}")
        content = answer.read(MOST_BYTES + 1)
        self._left()  # a connection that was cut for its time looks complete
        if len(content) > MOST_BYTES:
            raise _Refused(f"it has more than {MOST_BYTES >> 20} MiB")
        return content

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise _Refused("it takes too long")
        return left


class _Pinned(HTTPConnection):
    """A connection to one of the addresses that were checked."""

    def __init__(self, url: SplitResult, peers: list[str], seconds: float) -> None:
        self.default_port = PORTS[url.scheme]
        super().__init__(url.hostname or "", url.port, timeout=seconds)
        self._peers = peers
        self._open: socket.socket | None = None  # `sock` is gone once an answer has it
        self._tls = ssl.create_default_context() if url.scheme == "https" else None

    def connect(self) -> None:
        self.sock = self._open = self._reached()
        if self._tls is not None:
            secure = self._tls.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = self._open = secure  # before the handshake, so that it can be cut short
            secure.do_handshake()

    def _reached(self) -> socket.socket:
        for peer in self._peers[:-1]:
            try:
                return socket.create_connection((peer, self.port), self.timeout)
            except OSError:
                continue
        return socket.create_connection((self._peers[-1], self.port), self.timeout)

    def answer(self, url: SplitResult) -> HTTPResponse:
        path = quote(url.path or "/", safe="/%:@!$&'()*+,;=~")
        query = "?" + quote(url.query, safe="/%:@!$&'()*+,;=~?") if url.query else ""
        self.request("GET", path + query, headers={"User-Agent": "bivlm", "Accept": "image/*"})
        return self.getresponse()

    def hang_up(self) -> None:
        """End the connection at once, whatever it waits for."""
        if self._open is not None:
            with suppress(OSError):  # it may be over by itself
                self._open.shutdown(socket.SHUT_RDWR)


def _public_addresses(url: SplitResult) -> list[str]:
    """The addresses of a URL's host. Raises _Refused unless all of them are public, with one sentence for
    whatever is wrong, so that nobody learns from it what there is on the server's network.
    """
    if url.scheme not in PORTS or not url.hostname or url.username or url.password:
        raise _Refused("it is no plain http or https address")
    port = url.port or PORTS[url.scheme]
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        found = set()
    if not found or not all(is_public(address) for address in found):
        raise _Refused("it is not at a public address")
    return sorted(found, key=lambda address: ":" in address)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, and none that is private, of this machine, of the local
    link, reserved, or for many receivers; also as it is written within another one.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast
    if found.ipv4_mapped is not None:
        return is_public(str(found.ipv4_mapped))
    if found in NAT64:
        return is_public(str(ipaddress.IPv4Address(found.packed[-4:])))
    return found in UNICAST and found.is_global and found.sixtofour is None and found.teredo is None
