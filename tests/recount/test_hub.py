"""A repository of the hub, by a local stand-in of its HTTP interface: only ranges of bytes are fetched, and
what goes wrong is said in words.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest

from stored_headers import write_folder, write_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = 3000  # rows of a matrix that is not to be fetched: 6 MB in bfloat16
TENSORS = {
    "model.visual.blocks.0.attn.qkv.weight": ("BF16", (BIG, 1024)),
    "model.language_model.layers.0.mlp.up_proj.qweight": ("I32", (4, 96)),
    "model.language_model.layers.0.mlp.up_proj.qzeros": ("I32", (2, 6)),
    "model.language_model.layers.0.mlp.up_proj.scales": ("F16", (2, 96)),
}


class Hub(BaseHTTPRequestHandler):
    """The few calls that huggingface_hub makes; the files of one folder are the repository people/model."""

    folder: Path
    sent: list[int]

    def do_HEAD(self):
        self._file(self.path, body=False)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = [entry for entry in self._entries() if entry["path"] in asked["paths"]]
        self._json(found)

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/models/people/model/tree/"):
            self._json(self._entries())
        elif re.match(r"/api/models/people/model(/revision/main)?$", path):
            self._json({"id": "people/model", "sha": COMMIT, "siblings": []})
        else:
            self._file(path)

    def _entries(self):
        return [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": COMMIT}
            for path in sorted(self.folder.iterdir())
        ]

    def _file(self, path, body=True):
        found = re.match(r"/people/model/resolve/[^/]+/(?P<name>[\w.-]+)$", unquote(path))
        file = self.folder / found["name"] if found else None
        if file is None or not file.exists():
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
        content = file.read_bytes()[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("ETag", f'"{COMMIT}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.sent.append(len(content))
            self.wfile.write(content)

    def _json(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[tuple[str, list[int]]]:
    """Address of the stand-in, and the bytes of each answer with a file."""
    folder = write_folder(
        tmp_path_factory.mktemp("hub") / "model", TENSORS, {"quant_method": "gptq", "bits": 2}
    )
    write_gguf(folder / "m-Q2_K.gguf", "llama", {"blk.0.attn_q.weight": ("Q2_K", (BIG, 8192))})
    handler = type("Here", (Hub,), {"folder": folder, "sent": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.sent
    server.shutdown()
    server.server_close()


def recount(address, *words):
    """`bivlm recount` in a process of its own, with the stand-in as the hub."""
    code = "import sys; from bivlm.cli import main; sys.argv = ['bivlm', 'recount', *sys.argv[1:]]; main()"
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_only_headers_are_fetched(hub):
    address, sent = hub
    code, out, error = recount(address, "people/model", "--json")
    assert (code, error) == (0, "")
    gptq, gguf = json.loads(out)
    assert gptq["name"] == "people/model"
    assert [row["name"] for row in gptq["rows"]] == ["vision", "language"]
    assert gptq["total"]["weights"] == BIG * 1024 + 64 * 96
    assert (gguf["name"], gguf["claims"][0]["words"]) == ("people/model/m-Q2_K.gguf", "Q2_K")
    assert gguf["total"]["weights"] == BIG * 8192
    files = gptq["file_bytes"] + gguf["file_bytes"]
    assert files > 14_000_000
    assert 0 < sum(sent) < 1_100_000


def test_what_the_hub_does_not_have(hub):
    code, _, error = recount(hub[0], "people/other")
    assert (code, "no such repository" in " ".join(error.split())) == (2, True)
