"""The command in a process of its own: it listens, answers, and at SIGTERM ends with what it has accepted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bivlm import cli
from tiny import tiny_checkpoint


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def chat(port, tokens, key=None):
    body = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": tokens, "ignore_eos": True}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a signal ends it otherwise there")
def test_it_answers_what_it_has_accepted_before_it_ends(tmp_path, port):
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    command = [sys.executable, "-m", "bivlm", "serve", str(folder), "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(
        command, env={**os.environ, "BIVLM_API_KEY": "sesame"}, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except urllib.error.URLError:
                time.sleep(0.2)
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            chat(port, 1)
        refused.value.close()
        assert chat(port, 3, "sesame")["usage"]["completion_tokens"] == 3
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(chat, port, 900, "sesame")
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert asking.result()["usage"]["completion_tokens"] == 900
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stderr.close()


def test_a_port_in_use_is_told_before_anything_is_loaded(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["bivlm", "serve", "no-such-model", "--port", str(number)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 2
    assert f"nothing can listen at 127.0.0.1:{number}" in capsys.readouterr().err
