"""What each kind of exception becomes: one line, an exit code, and an object where JSON is wanted."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import bivlm.eval.inspection
from bivlm.cli.faults import explained
from bivlm.errors import InputError


def system(number: int, path: str | None = "out/x") -> OSError:
    return OSError(number, os.strerror(number), path)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FAULTS: list[tuple[Exception, int, str]] = [
    (InputError("no such thing; give another"), 2, "no such thing; give another"),
    (InputError("two\nlines\x1b[2J"), 2, "two\\nlines\\x1b[2J"),
    (system(errno.ENOSPC), 2, "the disk is full: out/x; make room, and run the same command again"),
    (system(errno.EDQUOT), 2, "the disk is full: out/x; make room"),
    (system(errno.EFBIG, None), 2, "File too large; allow larger files (ulimit -f)"),
    (system(errno.EROFS), 2, "Read-only file system: out/x; give a folder that can be written"),
    (system(errno.EACCES), 2, "Permission denied: out/x; give a place that you may use"),
    (system(errno.EMFILE), 2, "Too many open files: out/x; allow more open files (ulimit -n)"),
    (system(errno.ENAMETOOLONG), 2, "File name too long: out/x; give a shorter path"),
    (system(errno.ENOENT), 2, "No such file or directory: out/x"),
    (OSError("a library's own words\nand more"), 2, "a library's own words"),
    (
        SafetensorError("I/O error: No space left on device (os error 28)"),
        2,
        "the disk",
    ),
    (MemoryError(), 2, "there is not enough memory; free some"),
    (
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"),
        2,
        "there",
    ),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "there is not enough memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "there is not enough memory"),
    (caused(ValueError("x"), MemoryError()), 2, "there is not enough memory"),
    (system(errno.ENOMEM, None), 2, "there is not enough memory"),
    (RecursionError("maximum recursion depth exceeded"), 2, "a file that was read is nested too deeply"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "a text is not in the encoding"),
    (KeyError("x"), 1, "KeyError: 'x'; this is a fault of bivlm: BIVLM_TRACEBACK=1 shows where"),
    (AssertionError(), 1, "AssertionError: no message; this is a fault of bivlm"),
]


@pytest.mark.parametrize(("error", "code", "words"), FAULTS, ids=lambda value: type(value).__name__)
def test_a_fault_in_words(error: Exception, code: int, words: str):
    found, message = explained(error)
    assert found == code
    assert message.startswith(words)
    assert message.isprintable()


@pytest.fixture
def failing(run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `bivlm inspect` when it raises an exception."""

    def call(error: BaseException, *words: str) -> tuple[int, str, str]:
        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(bivlm.eval.inspection, "inspect", fail)
        return run("inspect", "x", *words)

    return call


@pytest.mark.parametrize(("error", "code", "words"), FAULTS[::4], ids=lambda value: type(value).__name__)
def test_a_command_ends_with_one_line_and_with_an_object_for_json(
    failing: Any, error: Exception, code: int, words: str
):
    assert failing(error) == (code, "", f"bivlm: error: {explained(error)[1]}\n")
    found, out, err = failing(error, "--json")
    assert (found, err) == (code, f"bivlm: error: {explained(error)[1]}\n")
    assert json.loads(out) == {"error": {"type": type(error).__name__, "message": explained(error)[1]}}


def test_ctrl_c(failing: Any):
    code, out, err = failing(KeyboardInterrupt(), "--json")
    assert code == 130
    assert err == "bivlm: interrupted; what is finished is kept, and the same command continues\n"
    assert json.loads(out)["error"]["type"] == "KeyboardInterrupt"


def test_the_traceback_is_shown_on_demand(failing: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BIVLM_TRACEBACK", "1")
    code, _, err = failing(KeyError("x"))
    assert code == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("please report it\n")
    monkeypatch.setenv("BIVLM_TRACEBACK", "0")
    assert "Traceback" not in failing(KeyError("x"))[2]


def test_a_wrong_option_with_json_gives_an_object_too(run: Any):
    code, out, err = run("inspect", "x", "--colour", "--json")
    assert code == 2
    assert json.loads(out) == {"error": {"type": "UsageError", "message": "No such option: --colour"}}
    assert "No such option" in err


def test_a_result_that_is_printed_is_the_only_document(run: Any, monkeypatch: pytest.MonkeyPatch):
    from bivlm.cli import presets

    def fail(content: Any) -> None:
        printed(content)
        raise InputError("some runs failed")

    printed = presets.print_json
    monkeypatch.setattr(presets, "print_json", fail)
    code, out, err = run("presets", "--json")
    assert code == 2
    assert "error" not in json.loads(out)
    assert err == "bivlm: error: some runs failed\n"
    assert json.loads(run("inspect", "nowhere", "--json")[1])["error"]["type"] == "InputError"
