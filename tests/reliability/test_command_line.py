"""The command line in bad places: other encodings, full and closed outputs, hostile arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bivlm import cli
from bivlm.job.run import quantize
from tiny import tiny_checkpoint

QUESTION = "这是什么? ä \N{GRINNING FACE}"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command_line")
    quantize(tiny_checkpoint("llava", folder / "source"), folder / "packed", recipe="rtn-3")
    Image.new("RGB", (40, 30), "red").save(folder / "image.png")
    record = {"image": "image.png", "question": QUESTION, "answer": "red"}
    (folder / "vqa.jsonl").write_text(json.dumps(record) + "\n")
    return folder


class Output:
    """Standard output or error in an encoding."""

    def __init__(self, path: Path, encoding: str) -> None:
        self.path = path
        self.stream = path.open("w", encoding=encoding, errors="strict")

    def read(self) -> bytes:
        self.stream.flush()
        return self.path.read_bytes()


@pytest.fixture
def run_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call the command line with standard output and error in an encoding; returns exit code and bytes."""

    def call(encoding: str, *words: object) -> tuple[int, bytes, bytes]:
        out, err = Output(tmp_path / "out", encoding), Output(tmp_path / "err", encoding)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["bivlm", *map(str, words)])
            patched.setattr(sys, "stdout", out.stream)
            patched.setattr(sys, "stderr", err.stream)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        with out.stream, err.stream:
            return int(ended.value.code or 0), out.read(), err.read()

    return call


ENCODINGS = ("utf-8", "cp1252", "ascii", "utf-16", "gb18030")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_valid_in_every_encoding(encoding: str, run_in: Any, packed: Path):
    words = ("ask", packed / "packed", "--image", packed / "image.png", QUESTION, "--json")
    code, out, _ = run_in(encoding, *words)
    assert code == 0
    assert json.loads(out.decode(encoding))["question"] == QUESTION
    assert encoding == "utf-8" or out.decode(encoding).isascii()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_answers_and_errors_are_printed_in_every_encoding(
    encoding: str, run_in: Any, packed: Path, monkeypatch: pytest.MonkeyPatch
):
    code, out, _ = run_in(encoding, "inspect", packed / "packed")
    assert code == 0
    assert "whole folder" in out.decode(encoding)
    monkeypatch.setattr("bivlm.serving.alone.answer_alone", lambda *_, **__: (QUESTION, None))
    code, out, _ = run_in(encoding, "ask", packed / "packed", "--image", packed / "image.png", "What?")
    assert code == 0
    assert out.decode(encoding) == QUESTION.encode(encoding, "replace").decode(encoding) + "\n"
    code, out, err = run_in(encoding, "inspect", f"/{QUESTION}\udcff", "--json")
    assert code == 2
    assert err.decode(encoding).startswith("bivlm: error: ")
    assert err.decode(encoding).count("\n") == 1
    assert json.loads(out.decode(encoding))["error"]["type"] == "InputError"


@pytest.mark.parametrize(
    "words",
    [
        ("ask", "PACKED", "--image", "IMAGE", "half \udcff"),
        ("ask", "PACKED", "--image", "\udcff.png", "What?"),
        ("ask", "PACKED", "--image", "IMAGE", " "),
        ("ask", "PACKED", "--image", "https://example.org/a.png", "What?"),
        ("ask", "PACKED", "--image", "data:image/png;base64," + "A" * 9000, "What?"),
        ("ask", "PACKED", "--image", "/dev/zero", "What?"),
        ("ask", "\udcff", "--image", "IMAGE", "What?"),
        ("inspect", "a\0b"),
        ("inspect", "a" * 5000),
        ("eval", "PACKED", "--data", "a" * 5000),
        ("eval", "PACKED", "--data", "a\0b"),
        ("eval", "PACKED", "--data", "/dev/zero"),
        ("eval", "PACKED", "--data", "DATA", "--data-root", "PACKED"),
        ("prune", "PACKED", "--data", "DATA", "--data-root", "PACKED", "--layers", "1", "--out", "OUT"),
        ("compare", "PACKED", "--data", "DATA", "--data-root", "no", "--presets", "rtn-3", "--out", "OUT"),
        ("doctor", "\udcff"),
    ],
    ids=lambda words: f"{words[0]} {words[-1][:12]!r}",
)
def test_what_cannot_be_is_one_short_line(words: tuple[str, ...], run_in: Any, packed: Path, tmp_path: Path):
    places = {
        "PACKED": packed / "packed",
        "IMAGE": packed / "image.png",
        "DATA": packed / "vqa.jsonl",
        "OUT": tmp_path / "study",
    }
    code, out, err = run_in("utf-8", *(places.get(word, word) for word in words))
    text = err.decode()
    assert (code, out) == (2, b"")
    assert text.startswith("bivlm: error: ")
    assert text.count("\n") == 1
    assert len(text) < 600
    assert not (tmp_path / "study").exists()


def bivlm(*words: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from bivlm.cli import main; main()", *map(str, words)]
    return subprocess.run(
        command, capture_output="stdout" not in options, timeout=120, check=False, **options
    )


def test_a_full_disk_behind_the_output_is_told(packed: Path):
    with Path("/dev/full").open("wb") as full:
        ended = bivlm("inspect", packed / "packed", stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stderr == b"bivlm: error: the disk is full; make room, and run the same command again\n"


def test_a_reader_that_has_gone_ends_the_command_quietly(packed: Path):
    reading, writing = os.pipe()
    os.close(reading)
    ended = bivlm("inspect", packed / "packed", "--json", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_without_a_working_directory_the_line_says_so(packed: Path, tmp_path: Path):
    """Nor standard output, nor home."""
    script = f"""
    mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone
    exec "$0" -c 'from bivlm.cli import main; main()' inspect {packed}/packed >&-
    """
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    ended = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable], capture_output=True, timeout=120, env=environment
    )
    assert ended.returncode == 2
    assert ended.stderr.decode() == (
        "bivlm: error: the working directory cannot be used (No such file or directory); change to one that"
        " exists\n"
    )
