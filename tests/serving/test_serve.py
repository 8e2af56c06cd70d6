"""The command in a process of its own: it listens, answers, and at SIGTERM ends with what it has accepted."""

from __future__ import annotations

import gc
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
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import bivlm
from bivlm import cli
from bivlm.serving.serve import engine_of
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


@contextmanager
def serving(folder, port, key=""):
    """The command in a process of its own, once it listens."""
    command = [sys.executable, "-m", "bivlm", "serve", str(folder), "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(
        command, env={**os.environ, "BIVLM_API_KEY": key}, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except urllib.error.URLError:
                time.sleep(0.2)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a signal ends it otherwise there")
def test_it_answers_what_it_has_accepted_before_it_ends(tmp_path, port):
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    with serving(folder, port, key="sesame") as process:
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


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is mapped")
def test_a_model_that_serves_does_not_need_its_files(tmp_path):
    """Files that are cut while they are mapped would end the process."""
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    packed = bivlm.quantize(folder, tmp_path / "packed", recipe="rtn-2", embeddings=4)
    for path in (folder, packed):
        before = bivlm.answer(*bivlm.load(path), None, "Why?", max_new_tokens=4)
        model, processor = bivlm.load(path)
        engine_of(model, processor)
        gc.collect()
        assert str(path) not in Path("/proc/self/maps").read_text()
        assert bivlm.answer(model, processor, None, "Why?", max_new_tokens=4) == before


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["cut", "noise", "gone"])
def test_a_folder_that_is_damaged_while_it_serves(tmp_path, port, harm):
    folder = tiny_checkpoint("llava", tmp_path / "model", torch.float32)
    with serving(folder, port):
        before = chat(port, 5)["choices"]
        for file in folder.iterdir():
            if harm == "gone":
                file.unlink()
            else:
                with file.open("r+b") as content:
                    content.write(os.urandom(file.stat().st_size))
                    content.truncate(0 if harm == "cut" else None)
        assert chat(port, 5)["choices"] == before


def test_a_port_in_use_is_told_before_anything_is_loaded(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["bivlm", "serve", "no-such-model", "--port", str(number)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 2
    assert f"nothing can listen at 127.0.0.1:{number}" in capsys.readouterr().err
