"""A question by the chat template of a model, within limits of time and memory.

A chat template is a program in a model's folder. transformers renders it in Jinja's sandbox, which keeps it
from the machine, but not from computing for hours or filling the memory. Here it is rendered in a process of
its own (template_process.py), which starts with the first question, takes 0.1 seconds and 20 MB for that, and
serves all models. The text is that of `apply_chat_template`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import jinja2
import markupsafe

from bivlm.errors import InputError, cut

SECONDS = 5  # of processor time for one question
MEMORY_BYTES = 512 << 20  # address space of the process; Python and Jinja take 60 MB of it
CHARACTERS = 1 << 22  # of a rendered question
FOR_VIDEOS = "DEFAULT_CHAT_TEMPLATE"  # in the module of a processor
PATIENCE = 120.0  # seconds until a process that neither computes nor answers is given up
# where a model folder may keep its template, in the order in which transformers looks
FILES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")


def apply_chat_template(processor: Any, *messages: Mapping[str, Any]) -> str:
    """Messages in the form that the model was trained on, up to where the answer begins; if the last one is
    the assistant's, to its end.

    `processor` is a processor or a tokenizer with a chat template. Raises InputError, naming the template's
    file and line, if the template is damaged, refuses the message, or takes more than SECONDS, MEMORY_BYTES
    or CHARACTERS.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    variables = {
        "messages": list(messages),
        "tools": None,
        "documents": None,
        "add_generation_prompt": messages[-1]["role"] != "assistant",
        **tokenizer.special_tokens_map,
    }
    reply = _PROCESS.ask({"template": _template_of(processor, messages), "variables": variables})
    if "text" in reply:
        return reply["text"]
    line = f", line {reply['line']}" if reply.get("line") else ""
    raise InputError(
        f"{_place(processor)}{line}: the chat template cannot be used ({cut(reply['error'], 300)}); get it"
        " again from where the model comes from, or correct it"
    )


def _template_of(processor: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The template, or the one of several that is called "default". As in `apply_chat_template`, SmolVLM's
    processor has one of its own for videos.
    """
    template = processor.chat_template
    own = getattr(sys.modules[type(processor).__module__], FOR_VIDEOS, None)
    if isinstance(own, str) and any(_has_video(message["content"]) for message in messages):
        return own
    if isinstance(template, Mapping):
        if "default" not in template:
            raise InputError(
                f"{_place(processor)}: there are the chat templates {cut(', '.join(template))}, and none is"
                " called default; call one so"
            )
        template = template["default"]
    if not isinstance(template, str):
        raise InputError(
            f"{_place(processor)}: the chat template must be a text, and is a {type(template).__name__}"
        )
    return template


def _has_video(content: Any) -> bool:
    return isinstance(content, list) and any(part["type"] == "video" for part in content)


def _place(processor: Any) -> str:
    """The file that the template most likely is from; without a folder, the processor's class."""
    tokenizer = getattr(processor, "tokenizer", processor)
    folder = getattr(tokenizer, "name_or_path", "") or ""
    for name in FILES if folder else ():
        path = Path(folder) / name
        if path.is_file() and (name == FILES[0] or "chat_template" in path.read_text(errors="replace")):
            return str(path)
    return folder or type(processor).__name__


class _Process:
    """The rendering process: started when it is needed, and again after it was ended. Threads take turns."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._parents: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises InputError where no process can be started."""
        line = json.dumps(request, default=lambda value: f"<{type(value).__name__}>").encode() + b"\n"
        with self._lock:
            try:
                answer = self._answer(line)
            except BaseException:
                self.close()  # its answer to this request must not be taken for that to the next
                raise
            return {"error": self._why_none()} if answer is None else json.loads(answer)

    def close(self) -> None:
        """End the process."""
        process, self._running = self._running, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not written yet is lost
                    pipe.close()

    def leave(self) -> None:
        """In a forked process: the rendering process is the parent's, another one will be started."""
        self._lock, self._parents, self._running = Lock(), self._running, None

    def _answer(self, line: bytes) -> bytes | None:
        """The process's answer, or None if it has ended or does not answer."""
        if self._running is None or self._running.poll() is not None:
            self.close()
            self._running = _start()
        process = self._running
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        found, end = b"", time.monotonic() + PATIENCE
        ready = select.poll()
        ready.register(process.stdout, select.POLLIN)
        while not found.endswith(b"\n"):
            if not ready.poll(max(0.0, end - time.monotonic()) * 1000):
                return None
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return None
            found += piece
        return found

    def _ended(self) -> int | None:
        """The exit status of a process that gave no answer; None if it still runs."""
        assert self._running is not None
        try:
            return self._running.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return None

    def _why_none(self) -> str:
        """Why there was no answer, in words; the process is gone after that."""
        status = self._ended()
        self.close()
        if status == -signal.SIGXCPU:
            return f"it takes more than {SECONDS} seconds"
        if status is None:
            return f"it gave no text in {PATIENCE:.0f} seconds"
        return f"its process ended with status {status}"


# what the process gets of this one's environment: enough to start Python, and no tokens or passwords
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ")


def _start() -> subprocess.Popen[bytes]:
    path = [str(Path(str(module.__file__)).parents[1]) for module in (jinja2, markupsafe)]
    settings = {"path": path, "seconds": SECONDS, "memory": MEMORY_BYTES, "characters": CHARACTERS}
    script = str(Path(__file__).with_name("template_process.py"))
    # Ctrl-C is for the command, not for this process; it may come before the process has its own session
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [_python(), "-I", "-S", script, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(
            f"the process that renders chat templates cannot be started: {_python()} ({error.strerror})"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _python() -> str:
    """The Python interpreter; in a server that embeds Python, `sys.executable` is the server."""
    given, beside = sys.executable or "", Path(sys.exec_prefix) / "bin" / "python3"
    return given if "python" in Path(given).name or not beside.exists() else str(beside)


_PROCESS = _Process()
atexit.register(_PROCESS.close)
os.register_at_fork(after_in_child=_PROCESS.leave)
