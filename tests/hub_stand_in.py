"""A stand-in for the hub's HTTP interface, in memory: repositories are made, files uploaded (small ones in
the commit, large ones by the LFS protocol), listed and downloaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

SHA = "a" * 40
LARGE = (".safetensors",)


class Hub(ThreadingHTTPServer):
    """`files` has the content of every file by repository and path; `refused` are repositories that nobody
    may write.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self.branches: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        path, body = unquote(urlparse(self.path).path), self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in self.server.refused:
                self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
                return
            self.server.files.setdefault(name, {})
            self.server.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            self._json({"url": f"{self.server.address}/{name}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/branch/" in path:
            self.server.branches.append(path.rpartition("/branch/")[2])
            self._json({})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                            "shouldIgnore": False,
                            "oid": None,
                        }
                        for file in files
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = {
                one["oid"]: {"upload": {"href": f"{self.server.address}/large/{one['oid']}"}}
                for one in objects
            }
            self._json(
                {"transfer": "basic", "objects": [{**one, "actions": upload[one["oid"]]} for one in objects]}
            )
        elif "/commit/" in path:
            self._commit(path, body)
        else:
            self._json({"error": f"no such place: {path}"}, 404)

    def _commit(self, path: str, body: bytes) -> None:
        name = path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.server.files[name][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.server.files[name][value["path"]] = self.server.large[value["oid"]]
        self._json({"commitUrl": f"{self.server.address}/{name}/commit/{SHA}", "commitOid": SHA})

    def do_PUT(self) -> None:
        body = self._body()
        self.server.large[self.path.removeprefix("/large/")] = body
        assert hashlib.sha256(body).hexdigest() == self.path.removeprefix("/large/")
        self._send(b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        found = re.fullmatch(r"/api/models/(?P<name>[^/]+/[^/]+)(?P<rest>/.*)?", path)
        if found and found["name"] in self.server.files:
            files = self.server.files[found["name"]]
            if (found["rest"] or "").startswith("/tree/"):
                self._json(
                    [{"type": "file", "path": one, "size": len(files[one]), "oid": SHA} for one in files]
                )
                return
            self._json(
                {
                    "id": found["name"],
                    "sha": SHA,
                    "siblings": [{"rfilename": one} for one in files],
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            )
            return
        found = re.fullmatch(r"/(?P<name>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)", path)
        content = self.server.files.get(found["name"], {}).get(found["file"]) if found else None
        if content is None:
            self._send(b"", 404, {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound"})
            return
        etag = hashlib.sha256(content).hexdigest()
        self._send(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": SHA})
